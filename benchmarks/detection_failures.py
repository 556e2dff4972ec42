"""What Lossguard missed and what it said for nothing, as lines and as pictures."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.detection_logs import Log, Source
from benchmarks.detection_rules import LEVELS, replay
from benchmarks.detection_scoring import Outcome
from lossguard.detectors import Severity

_CONTEXT_ROWS = 150
"""Rows that a picture shows before and after."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that was missed or not taken seriously, or an alarm for nothing."""

    log: str
    held_out: bool
    what: str
    """The type of the event, or the symptom and severity of the alarm."""
    steps: str
    said: str
    """What was said about the event instead, or that nothing had happened."""
    grave: bool
    """A critical event without a critical alarm, or a critical alarm without an event."""
    first: int
    last: int

    @property
    def line(self) -> str:
        """One line for a person."""
        half = "held-out" if self.held_out else "train   "
        mark = "*" if self.grave else " "
        return f"{half} {mark} {self.log:30} {self.what:22} steps {self.steps}: {self.said}"


def failures(outcomes: Mapping[str, Sequence[Outcome]]) -> Iterator[Failure]:
    """Missed events, then false episodes. ``outcomes`` are by name of the rule, one a log."""
    levels = {severity: outcomes[name] for name, severity in LEVELS.items()}
    pairs = zip(levels[Severity.CRITICAL], levels[Severity.INFO], strict=True)
    for critical, anything in pairs:
        yield from _missed(critical, anything)
    for severity, of_logs in levels.items():
        for outcome in of_logs:
            yield from _false(severity, outcome)


def _missed(critical: Outcome, anything: Outcome) -> Iterator[Failure]:
    for strict, loose in zip(critical.found, anything.found, strict=True):
        event = strict.event
        grave = event.critical and strict.delay is None
        if loose.delay is not None and not grave:
            continue
        said = "missed" if loose.delay is None else f"said {loose.delay:+d} rows, not as critical"
        yield Failure(
            log=critical.log,
            held_out=critical.held_out,
            what=event.type,
            steps=event.span,
            said=said,
            grave=grave,
            first=event.first,
            last=event.last,
        )


def _false(severity: Severity, outcome: Outcome) -> Iterator[Failure]:
    """False episodes whose first alarm at this level or above has this very severity."""
    for alarm in outcome.false:
        if alarm.name.endswith(str(severity)):
            yield Failure(
                log=outcome.log,
                held_out=outcome.held_out,
                what=alarm.name,
                steps=str(alarm.step),
                said="no such event",
                grave=severity is Severity.CRITICAL,
                first=alarm.row,
                last=alarm.row,
            )


def plot(failed: Sequence[Failure], sources: Sequence[Source], folder: Path) -> None:
    """A picture of each failure. Needs matplotlib, which Lossguard does not; says so without it."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        print("--plots needs matplotlib: pip install matplotlib", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    of = {source.label["id"]: source for source in sources}
    for failure in failed:
        log = of[failure.log].read()
        figure, axes = pyplot.subplots(figsize=(6.4, 2.6), dpi=80)
        _draw(axes, log, failure)
        figure.tight_layout()
        path = folder / f"{failure.log}_{failure.first}.png"
        figure.savefig(path)
        pyplot.close(figure)
        print(path, file=sys.stderr)


def _draw(axes: Any, log: Log, failure: Failure) -> None:
    """What was logged around a failure, the label shaded, Lossguard's alarms as dotted lines."""
    first = max(0, failure.first - _CONTEXT_ROWS)
    last = min(len(log.observations), failure.last + _CONTEXT_ROWS)
    metric = "loss_scale" if failure.what == "loss_scale_collapse" else "loss"
    seen = [
        (row, value)
        for row in range(first, last)
        if (value := log.observations[row].get(metric)) is not None and math.isfinite(value)
    ]
    style = {"color": "black", "linewidth": 0.8, "marker": "." if len(seen) < 60 else ""}
    axes.plot([row for row, _ in seen], [value for _, value in seen], **style)
    values = [value for _, value in seen]
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    for event in log.events:
        own = (event.first, event.last) == (failure.first, failure.last)
        colour = "tab:orange" if own else "lightgrey"
        axes.axvspan(event.first - 0.5, event.last + 0.5, color=colour, alpha=0.4, linewidth=0)
    said = replay(log, rivals=False)
    for name, colour in (("Lossguard, any", "tab:blue"), ("Lossguard, critical", "tab:red")):
        for alarm in said[name].alarms:
            if first <= alarm.row <= last:
                axes.axvline(alarm.row, color=colour, linewidth=1.2, linestyle=":")
    axes.set_xlim(first - 0.5, last - 0.5)
    axes.set_title(f"{failure.log}: {failure.what}, {failure.steps}: {failure.said}", fontsize=8)
    axes.set_xlabel("row", fontsize=8)
    axes.set_ylabel(metric, fontsize=8)
    axes.tick_params(labelsize=7, which="both")
