"""Logs to score rules on: their rows, and what a reader of the plot marked in them."""

from __future__ import annotations

import csv
import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lossguard.agent.logs import LogOptions, open_logs
from lossguard.detectors import Observation

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

ALWAYS_CRITICAL = frozenset(
    {"nan", "divergence", "loss_scale_collapse", "nan_as_zero_loss", "grad_explosion"}
)
CRITICAL_WHEN_LARGE_AND_LASTING = frozenset({"loss_spike", "level_shift"})
LARGE = 2.0
"""Multiple of the level before the event: the median of the last 32 finite losses."""
LASTING = 5
"""Rows of the event at which the loss is that large, or not finite."""
_LEVEL_ROWS = 32


@dataclass(frozen=True, slots=True)
class Event:
    """One labelled event: its type, its rows of the log (from 0, both inclusive), its steps."""

    type: str
    first: int
    last: int
    span: str
    critical: bool
    """Whether a careful reader would mark it critical (``is_critical``)."""


@dataclass(frozen=True)
class Log:
    """One log of a run. ``group`` names the runs that are correlated with it."""

    id: str
    group: str
    kind: str
    observations: Sequence[Observation] = field(repr=False)
    events: tuple[Event, ...] = ()
    tolerated: tuple[tuple[int, int], ...] = ()
    """Ambiguous rows, both inclusive: neither rewarded nor punished."""

    @property
    def held_out(self) -> bool:
        """Whether the group was set apart when thresholds were chosen: two in five."""
        return int(hashlib.md5(self.group.encode()).hexdigest(), 16) % 100 >= 60

    @cached_property
    def row_of(self) -> dict[int, int]:
        """The first row of each step."""
        rows: dict[int, int] = {}
        for row, observation in enumerate(self.observations):
            rows.setdefault(observation.step, row)
        return rows


@dataclass(frozen=True, slots=True)
class Source:
    """Where a log is, and its line in labels.csv: what a worker is sent."""

    path: Path
    label: dict[str, str]

    @property
    def group(self) -> str:
        """The project that the run is from; pasted excerpts have nothing in common."""
        return self.label["id"] if self.label["group"] in ("", "pasted") else self.label["group"]

    def read(self) -> Log:
        """The log with its events placed on its rows."""
        (log,) = open_logs(str(self.path), self.path, LogOptions())
        observations = list(log)
        label = self.label
        events = []
        for text in filter(None, label["intervals"].split(";")):
            kind, span = text.split(":")
            first, last = rows_of(span, observations)
            critical = is_critical(kind, first, last, observations)
            events.append(Event(kind, first, last, span, critical))
        return Log(
            id=label["id"],
            group=self.group,
            kind=label["kind"],
            observations=observations,
            events=tuple(events),
            tolerated=tuple(
                rows_of(span, observations)
                for span in filter(None, label["tolerated_intervals"].split(";"))
            ),
        )


def labelled_sources(data: Path) -> list[Source]:
    """Every log of a folder of labelled data; an empty list where there is no such folder."""
    labels = data / "labels.csv"
    if not labels.is_file():
        return []
    with labels.open(newline="") as file:
        sources = [
            Source(data / "runs" / f"{label['id']}.csv", label) for label in csv.DictReader(file)
        ]
    extra = sorted((data / "healthy_extra").glob("mng_*.csv"))
    return sources + [Source(path, _healthy(path.stem)) for path in extra]


def _healthy(name: str) -> dict[str, str]:
    """The label of the extra healthy runs, which all come from one project."""
    group = "KellerJordan/modded-nanogpt"
    return {
        "id": name,
        "group": group,
        "kind": "healthy",
        "intervals": "",
        "tolerated_intervals": "",
    }


def rows_of(span: str, observations: Sequence[Observation]) -> tuple[int, int]:
    """The first and last row whose step lies in a span such as ``10-20``.

    Where none does (few steps are logged), the row nearest to its begin.
    """
    first, last = (int(part) for part in span.split("-"))
    rows = [row for row, seen in enumerate(observations) if first <= seen.step <= last]
    if rows:
        return rows[0], rows[-1]
    nearest = min(range(len(observations)), key=lambda r: abs(observations[r].step - first))
    return nearest, nearest


def is_critical(kind: str, first: int, last: int, observations: Sequence[Observation]) -> bool:
    """Whether a careful reader would have wanted to be woken by the event.

    NaN, divergence, a collapsing loss scale, NaN logged as zero and exploding gradients always;
    a spike or shift of the loss where it is large (twice the level before) on five rows or more.
    """
    if kind in ALWAYS_CRITICAL:
        return True
    if kind not in CRITICAL_WHEN_LARGE_AND_LASTING:
        return False
    before = [
        loss
        for seen in observations[max(0, first - 8 * _LEVEL_ROWS) : first]
        if (loss := seen.get("loss")) is not None and math.isfinite(loss)
    ][-_LEVEL_ROWS:]
    level = statistics.median(before) if before else math.nan
    losses = [seen.get("loss") for seen in observations[first : last + 1]]
    large = sum(
        loss is not None and (not math.isfinite(loss) or loss >= LARGE * level > 0)
        for loss in losses
    )
    return large >= LASTING
