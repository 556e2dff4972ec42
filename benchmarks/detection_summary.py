"""Numbers over many logs: recall, false episodes, delays, with intervals over groups of runs."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.detection_injection import Injected
from benchmarks.detection_logs import Event
from benchmarks.detection_scoring import ANSWERS, Found, Outcome
from benchmarks.rivals import PROGRESS, UPSET, VALIDATION

REPETITIONS = 400
"""Of the bootstrap."""

KINDS_OF_EVENT: dict[str, Callable[[Event], bool]] = {
    "critical": lambda event: event.critical,
    "upsets": lambda event: event.type in ANSWERS[UPSET],
    "validation": lambda event: event.type in ANSWERS[VALIDATION],
    "stalls, swings": lambda event: event.type in ANSWERS[PROGRESS],
}
"""Events that are counted together: what a reader would mark critical, and by sort of alarm."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many of all, and the 90 % interval of the share over groups."""

    found: int
    total: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rate:
    """False episodes, the rows they are of, their rate per 10,000 rows and its 90 % interval."""

    count: int
    rows: int
    per_10k: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One rule on one half of the logs."""

    shares: dict[str, Share]
    """By kind of event (``KINDS_OF_EVENT``)."""
    types: dict[str, Share]
    """By type of event."""
    false_on_healthy: Rate
    false_on_all: Rate
    time_in_alarm: float
    """Share of quiet rows with an alarm."""
    delay: float
    """Median rows from the begin of a critical event to the alarm that found it; NaN without."""
    onset_error: float
    """Median distance of the dated onset from the labelled one, of the same events [rows]."""


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """One rule's outcomes, one a log."""
    healthy = [outcome for outcome in outcomes if outcome.kind == "healthy"]
    founds = [
        found
        for found in _founds(outcomes, KINDS_OF_EVENT["critical"])
        if found.delay is not None and found.onset_error is not None
    ]
    rows = sum(outcome.quiet_rows for outcome in outcomes)
    types = sorted({found.event.type for outcome in outcomes for found in outcome.found})
    return Summary(
        shares={name: share(outcomes, wanted) for name, wanted in KINDS_OF_EVENT.items()},
        types={name: share(outcomes, _of_type(name)) for name in types},
        false_on_healthy=rate(healthy),
        false_on_all=rate(outcomes),
        time_in_alarm=sum(o.alarm_rows for o in outcomes) / rows if rows else math.nan,
        delay=_median([found.delay for found in founds if found.delay is not None]),
        onset_error=_median([abs(f.onset_error) for f in founds if f.onset_error is not None]),
    )


def share(outcomes: Sequence[Outcome], wanted: Callable[[Event], bool]) -> Share:
    """Of the wanted events, how many were found."""
    counts = [
        (o.group, sum(f.delay is not None for f in founds), len(founds))
        for o in outcomes
        for founds in [list(_founds([o], wanted))]
    ]
    return Share(sum(c[1] for c in counts), sum(c[2] for c in counts), *interval(counts))


def rate(outcomes: Sequence[Outcome]) -> Rate:
    """False episodes per 10,000 quiet rows."""
    counts = [(o.group, len(o.false), o.quiet_rows) for o in outcomes]
    count, rows = sum(c[1] for c in counts), sum(c[2] for c in counts)
    low, high = interval(counts)
    return Rate(count, rows, 1e4 * count / rows if rows else math.nan, 1e4 * low, 1e4 * high)


def share_of_faults(injected: Sequence[Injected]) -> tuple[Share, float]:
    """How many of the faults were found, and the median delay [rows; NaN without]."""
    counts = [(each.group, int(each.delay is not None), 1) for each in injected]
    found = sum(c[1] for c in counts)
    delay = _median([each.delay for each in injected if each.delay is not None])
    return Share(found, len(counts), *interval(counts)), delay


def interval(counts: Iterable[tuple[str, int, int]], seed: int = 0) -> tuple[float, float]:
    """The 90 % bootstrap interval of sum(part) / sum(whole), from (group, part, whole) of each log.

    Whole groups are drawn with replacement, since the runs of one are correlated. NaN where the
    whole is 0.
    """
    sums: dict[str, tuple[int, int]] = {}
    for group, part, whole in counts:
        before = sums.get(group, (0, 0))
        sums[group] = before[0] + part, before[1] + whole
    groups = [sums[group] for group in sorted(sums)]
    rng = random.Random(seed)
    ratios = []
    for _ in range(REPETITIONS if groups else 0):
        drawn = rng.choices(groups, k=len(groups))
        whole = sum(each[1] for each in drawn)
        if whole:
            ratios.append(sum(each[0] for each in drawn) / whole)
    if not ratios:
        return math.nan, math.nan
    low, high = np.percentile(ratios, [5, 95])
    return float(low), float(high)


def _founds(outcomes: Sequence[Outcome], wanted: Callable[[Event], bool]) -> Iterable[Found]:
    return (found for outcome in outcomes for found in outcome.found if wanted(found.event))


def _of_type(name: str) -> Callable[[Event], bool]:
    return lambda event: event.type == name


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values)) if values else math.nan
