"""What the agent knows, as numbers: taken in its loop, frozen, and read by other threads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from lossguard.agent.feed import RunState

if TYPE_CHECKING:
    from lossguard.agent.alerts.transport import NotifierState
    from lossguard.agent.dead_man import PingState
    from lossguard.agent.live import LiveRun
    from lossguard.agent.loop_lag import LoopLag
    from lossguard.agent.otel.sender import SendingState
    from lossguard.agent.registry import Registry
    from lossguard.agent.sockets import Router
    from lossguard.agent.store import Store

_EVERY_S = 1.0
MOST_RUNS = 50
MOST_RANKS = 1000
"""Of all runs together."""
RECENT_S = 3600.0
"""A run that is over is shown for so long after its last word [s]."""
VALUES = (
    "loss", "val_loss", "grad_norm", "lr", "loss_scale", "step_time", "data_wait", "rss",
    "memory_allocated", "memory_total", "gpu_utilization", "gpu_temperature", "gpu_power",
)  # fmt: skip
"""The plain metrics that are exported; what there is of each layer is not."""
_DOORS = {b"p": "probes", b"v": "viewers", b"P": "remote_probes", b"V": "remote_viewers"}


class RankFigures(NamedTuple):
    rank: int
    step: int
    dropped: int
    heard_s: float
    """By the agent's monotonic clock."""


class RunFigures(NamedTuple):
    run: str
    name: str
    policy: str
    acts: bool
    state: RunState
    started_s: float
    """Wall clock [s since the epoch]."""
    step: int
    applied: int
    steps_per_s: float
    world_size: int
    num_ranks: int
    """That are there."""
    dropped: int
    actions: int
    incidents: int
    open: Mapping[tuple[str, str], int]
    """Incidents that are, by symptom and severity."""
    calling: Mapping[tuple[str, str], int]
    """Of these, the ones that nobody acknowledged or muted."""
    values: Mapping[str, float]
    limits: Mapping[str, float]
    ranks: tuple[RankFigures, ...]


class DoorFigures(NamedTuple):
    """Messages since the agent began."""

    door: str
    taken: int
    rejected: int
    refused: int
    failed: int


class Figures(NamedTuple):
    """All of it, at one moment."""

    taken_s: float
    """By the agent's monotonic clock."""
    runs: tuple[RunFigures, ...]
    active_runs: int
    left_out_runs: int
    left_out_ranks: int
    doors: tuple[DoorFigures, ...]
    turns: int
    lag_s: float
    store_failing: bool
    store_waiting: int
    alerts: Mapping[str, NotifierState]
    """By target; empty where nobody is told."""
    dead_man: PingState | None
    otel: SendingState | None


class Sources(NamedTuple):
    """Where the numbers come from; all of it belongs to the agent's loop."""

    registry: Registry
    store: Store
    routers: Mapping[bytes, Router]
    lag: LoopLag


class Newest:
    """The figures of about now: taken in the agent's loop, once a second, and read by any thread.
    Raises what ``take_anew`` does."""

    def __init__(self, take_anew: Callable[[], Figures]) -> None:
        self._take_anew = take_anew
        self._figures = take_anew()

    def __call__(self) -> Figures:
        return self._figures

    def tick(self) -> None:
        """A few times a second, in the loop: about 0.1 ms a run, once a second."""
        if time.monotonic() - self._figures.taken_s >= _EVERY_S:
            self._figures = self._take_anew()


def take(
    sources: Sources,
    alerts: Mapping[str, NotifierState],
    dead_man: PingState | None,
    otel: SendingState | None = None,
) -> Figures:
    """How all stands now. To be called in the agent's loop; takes about 0.1 ms a run."""
    now = time.monotonic()
    chosen, left_out = _choose(sources.registry)
    room = MOST_RANKS
    runs = []
    for live in chosen:
        run = _of_run(live, room)
        room -= len(run.ranks)
        runs.append(run)
    return Figures(
        taken_s=now,
        runs=tuple(runs),
        active_runs=sources.registry.active,
        left_out_runs=left_out,
        left_out_ranks=sum(run.num_ranks - len(run.ranks) for run in runs),
        doors=tuple(_of_door(router) for router in sources.routers.values()),
        turns=sources.lag.turns,
        lag_s=sources.lag.worst_s(now),
        store_failing=sources.store.is_failing,
        store_waiting=sources.store.num_waiting,
        alerts=alerts,
        dead_man=dead_man,
        otel=otel,
    )


def _choose(registry: Registry) -> tuple[list[LiveRun], int]:
    """Runs that go on first, then those that ended not long ago; and how many are too many."""
    runs = registry.newest_first()
    wanted = [live for live in runs if not live.is_over]
    recent = time.time() - RECENT_S
    wanted += [live for live in runs if live.is_over and _last_word_s(live) > recent]
    return wanted[:MOST_RUNS], max(0, len(wanted) - MOST_RUNS)


def _last_word_s(live: LiveRun) -> float:
    """Wall clock [s since the epoch]."""
    events = live.run.events
    return max(live.hello.started_s, events[-1].time_s if events else 0.0)


def _of_run(live: LiveRun, room: int) -> RunFigures:
    run = live.run
    open_now = run.incidents.open
    calling = [incident for incident in open_now if not incident.calls_nobody]
    return RunFigures(
        run=run.id,
        name=live.hello.name,
        policy=run.policy.name,
        acts=run.policy.acts,
        state=live.state,
        started_s=live.hello.started_s,
        step=run.step,
        applied=run.applied,
        steps_per_s=live.steps_per_s,
        world_size=live.hello.world_size,
        num_ranks=len(live.ranks),
        dropped=live.dropped,
        actions=run.actions,
        incidents=run.incidents.count,
        open=Counter((str(one.lead.symptom), str(one.severity)) for one in open_now),
        calling=Counter((str(one.lead.symptom), str(one.severity)) for one in calling),
        values={name: run.charts.last[name] for name in VALUES if name in run.charts.last},
        limits=dict(run.limits.now),
        ranks=tuple(
            RankFigures(number, rank.step, rank.dropped, rank.heard_s)
            for number, rank in sorted(live.ranks.items())[:room]
        ),
    )


def _of_door(router: Router) -> DoorFigures:
    return DoorFigures(
        _DOORS[router.mark], router.taken, router.rejected, router.refused, router.failed
    )
