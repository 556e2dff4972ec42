"""What is marked on every plot: incidents, actions, what a rollback undid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.stories import Story

_MOST = 60
GLYPHS = {"critical": "✕", "warning": "▲", "info": "●"}
ACTION_GLYPHS = {"rollback": "⟲", "stop": "■", "lower_lr": "↓", "checkpoint": "⤓"}


@dataclass(frozen=True)
class IncidentMark:
    """From the onset to the end, or to the end of the run."""

    number: int
    severity: str
    title: str
    first: int
    last: int


@dataclass(frozen=True)
class ActionMark:
    action: str
    step: int
    result: str


@dataclass(frozen=True)
class Marks:
    """``undone`` has (first, last) of the steps each rollback undid."""

    incidents: tuple[IncidentMark, ...] = ()
    actions: tuple[ActionMark, ...] = ()
    undone: tuple[tuple[int, int], ...] = ()
    skips: tuple[int, ...] = ()


def marks_of(data: RunData, stories: Sequence[Story]) -> Marks:
    """Of every story; at most 60 actions and rollbacks, the newest."""
    done = [one for one in data.commands if one.status == "done" and one.action != "skip"]
    return Marks(
        incidents=tuple(
            IncidentMark(
                story.number,
                story.severity,
                story.title,
                story.incident.onset_step,
                data.extent.last if story.incident.end_step is None else story.incident.end_step,
            )
            for story in stories
        ),
        actions=tuple(ActionMark(one.action, one.step, one.result) for one in done[-_MOST:]),
        undone=tuple((to + 1, at) for at, to in data.saved.rollbacks[-_MOST:]),
        skips=tuple(sorted(data.extent.skips)),
    )
