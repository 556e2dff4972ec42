"""Healthy runs with faults in them: the same faults, at the same rows, for every rule.

A *site* is a row of a healthy run. Every rule sees the run up to there once; then each fault is
put into the rows that follow, for a copy of every rule. A fault is found if any alarm stands in its
window. The control, with nothing put in, tells how often an alarm stands there anyway.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.detection_faults import CONSTANTS, FAULTS, ROWS_AFTER, Fault
from benchmarks.detection_logs import Log, Source
from benchmarks.detection_rules import Watcher, copies, watchers
from benchmarks.detection_scoring import SLACK_ROWS
from lossguard.detectors import Observation

LEAST_ROWS = 1000
"""Rows of a run that faults are put into."""
EARLIEST, LATEST = 300, 4000
"""The first and last row of a site, where the run is long enough; half of ROWS_AFTER follow."""


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault at one site under one rule."""

    fault: str
    group: str
    held_out: bool
    delay: int | None
    """Rows from where the loss moves to the first alarm in the window; None if there was none."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where faults are put in: the n-th row drawn in a run."""

    source: Source
    number: int


def sites(sources: Sequence[Source], per_group: int) -> list[Site]:
    """The same number in each group that has long healthy runs; its runs take turns."""
    groups: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        if source.label["kind"] == "healthy" and _num_rows(source) >= LEAST_ROWS:
            groups[source.group].append(source)
    return [
        Site(runs[number % len(runs)], number)
        for _, runs in sorted(groups.items())
        for number in range(per_group)
    ]


def _num_rows(source: Source) -> int:
    with source.path.open() as file:
        return sum(1 for _ in file) - 1


def inject(site: Site) -> dict[str, list[Injected]]:
    """Every fault at a site, by the name of the rule."""
    log = site.source.read()
    rng = random.Random(f"{log.id} {site.number}")
    rows = len(log.observations)
    start = rng.randint(EARLIEST, min(LATEST, rows - ROWS_AFTER // 2))
    outcomes: dict[str, list[Injected]] = defaultdict(list)
    for needs in ("", *CONSTANTS):
        faults = {name: fault for name, fault in FAULTS.items() if fault.needs == needs}
        observations = list(_with_metric(log.observations[: start + ROWS_AFTER], needs))
        ready = watchers()
        _watch(ready, observations, 0, start, log)
        for name, fault in faults.items():
            for rule, delay in _hurt(fault, copies(ready), observations, start, log, rng):
                outcomes[rule].append(Injected(name, log.group, log.held_out, delay))
    return dict(outcomes)


def _with_metric(observations: Sequence[Observation], metric: str) -> Iterator[Observation]:
    """The rows, with a metric at its constant where they have none."""
    for seen in observations:
        if metric and metric not in seen.values:
            seen = replace(seen, values={**seen.values, metric: CONSTANTS[metric]})
        yield seen


def _watch(of: list[Watcher], rows: Sequence[Observation], first: int, last: int, log: Log) -> None:
    for row in range(first, min(last, len(rows))):
        for watcher in of:
            watcher.watch(row, rows[row], log.row_of)


def _hurt(
    fault: Fault,
    ready: list[Watcher],
    observations: Sequence[Observation],
    start: int,
    log: Log,
    rng: random.Random,
) -> Iterator[tuple[str, int | None]]:
    """The delay of each rule, whose watchers have seen the rows before the start."""
    has_norm = any("grad_norm" in seen.values for seen in observations[:start])
    change, moves, over = fault.make(rng, has_norm)
    rows = list(observations)
    row_at: list[int] = []
    for row in range(start, len(rows)):
        values = dict(rows[row].values)
        if "loss" in values and np.isfinite(values["loss"]):
            change(values, len(row_at), rng)
            row_at.append(row)
            rows[row] = replace(rows[row], values=values)
    begin = row_at[moves]
    end = row_at[min(over, len(row_at) - 1)] + SLACK_ROWS
    _watch(ready, rows, start, end + 1, log)
    for watcher in ready:
        for rule, alarms in watcher.alarms().items():
            found = [alarm.row for alarm in alarms if start <= alarm.row <= end]
            yield rule, found[0] - begin if found else None
