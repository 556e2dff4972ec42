"""A run as viewers get it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import numpy as np

from lossguard.agent.attending import is_stuck
from lossguard.agent.close_ups import CloseUps
from lossguard.agent.feed import (
    MOST_METRICS,
    SPARK_CELLS,
    Beside,
    IncidentLine,
    LayerStrip,
    Picture,
    RunSummary,
    Series,
    Subscribe,
)
from lossguard.agent.history import MetricHistory
from lossguard.agent.layer_history import LayerMap
from lossguard.agent.live import LiveRun
from lossguard.agent.showing_ranks import rank_lines, snapshot_lines

_MOST_EVENTS = 500
_MOST_INCIDENTS = 200
_MOST_STRIPS = 4


def summarise(live: LiveRun, *, spark: bool = False) -> RunSummary:
    """One line of the run list."""
    run = live.run
    open_now = run.incidents.open
    worst = max((one.severity for one in open_now), key=lambda s: s.rank, default=None)
    loss = run.charts.histories.get("loss")
    return RunSummary(
        run=run.id,
        name=live.hello.name,
        state=live.state,
        step=run.step,
        applied=run.applied,
        world_size=live.hello.world_size,
        started=live.hello.started_s,
        metrics=list(run.charts.histories),
        last=dict(run.charts.last),
        incidents=len(run.incidents.all),
        actions=run.actions,
        dropped=live.dropped,
        policy=run.policy.name,
        open_incidents=len(open_now),
        worst=str(worst or ""),
        steps_per_s=live.steps_per_s,
        acts=run.policy.acts,
        is_stuck=any(map(is_stuck, open_now)),
        spark=loss.spark(SPARK_CELLS) if spark and loss is not None else b"",
    )


def draw(
    live: LiveRun | None,
    runs: list[RunSummary],
    wants: Subscribe,
    close_ups: CloseUps,
    beside: LiveRun | None = None,
) -> Picture:
    """All runs, and of one what was asked for; without one, the list alone."""
    if live is None:
        return Picture(runs=runs, agent_pid=os.getpid(), time_s=time.time())
    run = live.run
    return Picture(
        runs=runs,
        run=run.id,
        series=_series(live, wants, close_ups),
        incidents=_incidents(live),
        events=list(run.events)[-min(max(wants.events, 0), _MOST_EVENTS) :],
        limits=run.limits.now,
        rollbacks=list(run.rollbacks),
        agent_pid=os.getpid(),
        time_s=time.time(),
        snapshots=snapshot_lines(live),
        bounds=_of(run.limits.past, wants.metrics),
        muted=sorted(run.incidents.mutes),
        strips=_strips({**run.charts.layers.maps, **live.rank_strips.maps}, wants.strips),
        families=list(run.charts.layers.maps),
        ranks=rank_lines(live, time.monotonic()) if wants.ranks else [],
        beside=_beside(beside, wants, close_ups) if beside is not None else None,
    )


def _series(live: LiveRun, wants: Subscribe, close_ups: CloseUps) -> list[Series]:
    """Those that were asked for; in full resolution where that is asked for, and is more."""
    histories = live.run.charts.histories
    names = [name for name in wants.metrics[:MOST_METRICS] if name in histories]
    closer: list[Series] = []
    if wants.window is not None and any(histories[name].width > 1 for name in names):
        closer = close_ups.of(live.run.id, live.run.step, wants.window, names)
    if closer:
        return [_continued(one, histories[one.metric].series(one.metric)) for one in closer]
    return _of(histories, names)


def _continued(closer: Series, rest: Series) -> Series:
    """A close-up, and the buckets of the whole run that come after its end."""
    steps = np.frombuffer(rest.steps, "<i8")
    end = np.frombuffer(closer.steps, "<i8")[-1] if closer.steps else -1
    i = int(np.searchsorted(steps, end, "right"))
    return Series(
        metric=closer.metric,
        steps=closer.steps + rest.steps[8 * i :],
        low=closer.low + rest.low[4 * i :],
        high=closer.high + rest.high[4 * i :],
        last=closer.last + rest.last[4 * i :],
        nonfinite=closer.nonfinite + rest.nonfinite[i:],
    )


def _of(histories: Mapping[str, MetricHistory], names: Sequence[str]) -> list[Series]:
    return [histories[name].series(name) for name in names[:MOST_METRICS] if name in histories]


def _incidents(live: LiveRun) -> list[IncidentLine]:
    """All that are open and the newest others, oldest first."""
    known = live.run.incidents.all
    old = [one for one in known[:-_MOST_INCIDENTS] if one.is_open]
    return [one.line() for one in (*old[-_MOST_INCIDENTS:], *known[-_MOST_INCIDENTS:])]


def _strips(maps: Mapping[str, LayerMap], names: Sequence[str]) -> list[LayerStrip]:
    return [
        LayerStrip(
            family=name,
            names=maps[name].names,
            steps=maps[name].steps.astype("<i8").tobytes(),
            values=maps[name].values.astype("<f4").tobytes(),
        )
        for name in names[:_MOST_STRIPS]
        if name in maps
    ]


def _beside(live: LiveRun, wants: Subscribe, close_ups: CloseUps) -> Beside:
    series = _series(live, wants, close_ups)
    return Beside(run=live.run.id, name=live.hello.name, series=series)
