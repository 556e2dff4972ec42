"""A run as viewers get it."""

from __future__ import annotations

import os
import time

from lossguard.agent.feed import Picture, RunSummary
from lossguard.agent.live import LiveRun

_ORDER_OF_SEVERITY = ("info", "warning", "critical")
_EVENTS_SHOWN = 200


def summarise(live: LiveRun) -> RunSummary:
    """One line of the run list."""
    run = live.run
    open_now = run.incidents.open
    severities = [str(incident.severity) for incident in open_now]
    return RunSummary(
        run=run.id,
        name=live.hello.name,
        state=live.state,
        step=run.step,
        applied=run.applied,
        world_size=live.hello.world_size,
        started=live.hello.started_s,
        metrics=list(run.histories),
        last=dict(run.last),
        incidents=len(run.incidents.all),
        actions=run.actions,
        dropped=live.dropped,
        policy=run.policy.name,
        open_incidents=len(open_now),
        worst=max(severities, key=_ORDER_OF_SEVERITY.index, default=""),
        steps_per_s=live.pace.steps_per_s if live.state == "running" else 0.0,
    )


def draw(live: LiveRun | None, runs: list[RunSummary]) -> Picture:
    """All runs, and everything about one; without one, the list alone."""
    if live is None:
        return Picture(runs=runs, agent_pid=os.getpid(), time_s=time.time())
    run = live.run
    return Picture(
        runs=runs,
        run=run.id,
        series=[history.series(name) for name, history in run.histories.items()],
        incidents=[incident.line() for incident in run.incidents.all],
        events=list(run.events)[-_EVENTS_SHOWN:],
        limits=run.limits,
        rollbacks=list(run.rollbacks),
        agent_pid=os.getpid(),
        time_s=time.time(),
    )
