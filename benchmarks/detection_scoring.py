"""How a rule is scored on a log: the same for every rule.

* A rule raises *alarms*, each at one row. Alarms at most ``MERGE_ROWS`` rows apart are one
  *episode*; after ``REPEAT_ROWS`` rows a lasting alarm counts as another.
* An event is *found* if an alarm that can mean it (``ANSWERS``) stands in its window: its rows,
  ``SLACK_ROWS`` before the first, and after the last ``SLACK_ROWS`` plus half the length of the
  event, at most ``MOST_SLACK_ROWS`` in all. Rows, not steps, since one row may stand for 100 steps.
* An episode is *false* if none of its alarms stands in the window of any event, of any type, or
  in tolerated rows. Rows in neither are *quiet*: false episodes are counted per 10,000 of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.detection_logs import Event, Log
from benchmarks.rivals import NO_DECREASE, PROGRESS, UPSET, VALIDATION

SLACK_ROWS = 5
MOST_SLACK_ROWS = 50
MERGE_ROWS = 20
REPEAT_ROWS = 100

_PROGRESS_TYPES = frozenset({"stall", "oscillation"})
ANSWERS: dict[str, frozenset[str]] = {
    UPSET: frozenset(
        {
            "loss_spike",
            "grad_spike",
            "divergence",
            "nan",
            "nan_as_zero_loss",
            "grad_nonfinite",
            "level_shift",
            "restart",
            "loss_scale_collapse",
            "grad_explosion",
            "grad_collapse",
            "loss_rise",
        }
    ),
    VALIDATION: frozenset({"overfitting", "val_spike", "val_rise", "val_degradation"}),
    PROGRESS: _PROGRESS_TYPES,
    NO_DECREASE: _PROGRESS_TYPES | {"divergence", "level_shift", "restart", "loss_rise"},
}
"""The types of events that an alarm of each sort can mean. An alarm of another sort inside an
event neither finds it nor is false."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule's alarm at a row; ``onset`` is the row to which the rule dates the trouble."""

    row: int
    step: int
    sort: str
    onset: int
    name: str = ""
    """The symptom and severity, or the name of the rival."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one event under one rule."""

    event: Event
    delay: int | None
    """Rows from the first row of the event to the first alarm that found it; None if missed."""
    onset_error: int | None
    """Rows from the first row of the event to where that alarm dates it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rule on one log."""

    log: str
    group: str
    kind: str
    held_out: bool
    found: tuple[Found, ...]
    false: tuple[Alarm, ...]
    """The first alarm of each false episode."""
    quiet_rows: int
    alarm_rows: int
    """Quiet rows with an alarm: how much of the time the rule shouts."""


def window(event: Event) -> tuple[int, int]:
    """The rows, both inclusive, in which an alarm finds the event."""
    length = event.last - event.first + 1
    return event.first - SLACK_ROWS, event.last + min(SLACK_ROWS + length // 2, MOST_SLACK_ROWS)


def quiet_mask(log: Log) -> npt.NDArray[np.bool_]:
    """For each row whether an alarm there is false."""
    quiet = np.ones(len(log.observations), dtype=bool)
    for first, last in [*map(window, log.events), *log.tolerated]:
        quiet[max(0, first) : last + 1] = False
    return quiet


def episodes(alarms: Sequence[Alarm]) -> list[list[Alarm]]:
    """The alarms, in the order of rows, merged."""
    merged: list[list[Alarm]] = []
    for alarm in alarms:
        if (
            merged
            and alarm.row - merged[-1][-1].row <= MERGE_ROWS
            and alarm.row - merged[-1][0].row < REPEAT_ROWS
        ):
            merged[-1].append(alarm)
        else:
            merged.append([alarm])
    return merged


def score(log: Log, alarms: Iterable[Alarm]) -> Outcome:
    """What the alarms of one rule are worth on a log."""
    alarms = sorted(alarms, key=lambda alarm: alarm.row)
    quiet = quiet_mask(log)
    false = [
        episode[0] for episode in episodes(alarms) if all(quiet[alarm.row] for alarm in episode)
    ]
    return Outcome(
        log=log.id,
        group=log.group,
        kind=log.kind,
        held_out=log.held_out,
        found=tuple(_find(event, alarms) for event in log.events),
        false=tuple(false),
        quiet_rows=int(quiet.sum()),
        alarm_rows=len({alarm.row for alarm in alarms if quiet[alarm.row]}),
    )


def _find(event: Event, alarms: Sequence[Alarm]) -> Found:
    first, last = window(event)
    for alarm in alarms:
        if first <= alarm.row <= last and event.type in ANSWERS[alarm.sort]:
            return Found(event, alarm.row - event.first, alarm.onset - event.first)
    return Found(event, None, None)
