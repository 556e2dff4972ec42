"""How the steps of a log go: on, back to a checkpoint, or from the beginning again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

_RUN_ROWS = 16
"""Steps that start again after fewer rows are a counter within something, not another run."""
_NEAR_START = 0.01
"""Share of a run's steps: so close behind its first step it began anew."""
MAX_RESUMES = 1000
"""Steps that go back more often are out of order; nothing is undone by that."""


class Turn(Enum):
    """What the step of an observation means for those who remember the ones before it."""

    ON = "on"
    RESUME = "resume"
    """The steps went back, as after a restart from a checkpoint: what came since is undone."""
    ANEW = "anew"
    """Another run begins."""


@dataclass
class Turns:
    """How often the steps did not simply go on."""

    resumes: int = 0
    restarts: int = 0
    first: tuple[int, int, int] | None = None
    """(line, step before, step after) of the first time they went back"""
    counted_on: int = 0
    """Times that a counter started again and was counted on."""
    elsewhere: int = 0
    """Evaluations whose step was of another count than the training's."""
    stepless: int = 0
    """Evaluations without a step: taken at the step of the training before them."""


class Steps:
    """The steps of the training, made to go on where a counter starts again within a run.

    A counter starts again when it is back at (or 1 % behind) where it began, after fewer than 16
    rows or with a later epoch. Without that it is another run; anywhere else it is a resume.
    """

    def __init__(self) -> None:
        self.turns = Turns()
        self.now: int | None = None
        """The step of the training that came last, as it is counted."""
        self.offset = 0
        """What is added to the steps of the file."""
        self._first = 0
        self._last = 0
        self._rows = 0
        self._epoch = -math.inf

    def go(self, where: int, step: int, epoch: float | None) -> tuple[int, Turn]:
        """A step of the file, with its line and epoch, as it is counted; and what it means."""
        turn = Turn.ON
        if self.now is None:
            self._first = step
        elif step < self._last:
            turn = self._back(where, step, epoch)
        self._last = step
        self.now = step + self.offset
        self._rows += 1
        if epoch is not None and math.isfinite(epoch):
            self._epoch = epoch
        return self.now, turn

    def _back(self, where: int, step: int, epoch: float | None) -> Turn:
        rows, self._rows = self._rows, 0
        at_start = 0 <= step - self._first <= _NEAR_START * (self._last - self._first)
        later = epoch is not None and epoch > self._epoch
        if at_start and (rows < _RUN_ROWS or later):
            self.turns.counted_on += 1
            self.offset += self._last + 1 - step
            return Turn.ON
        if self.turns.first is None:
            self.turns.first = (where, self._last, step)
        if (at_start or step < self._first) and rows >= _RUN_ROWS:
            self.turns.restarts += 1
            self.offset, self._first, self._epoch = 0, step, -math.inf
            return Turn.ANEW
        self.turns.resumes += 1
        return Turn.RESUME if self.turns.resumes <= MAX_RESUMES else Turn.ON
