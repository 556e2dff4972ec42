"""What divides good losses from bad ones, where the onset of trouble tells which are which."""

from __future__ import annotations

import math
from collections import deque

from lossguard.detectors.streaming import median

_LOOKED_BACK = 96
_FEWEST_GOOD = 8


class Divide:
    """A bound on the loss around a rollback, and while bad data is waited out.

    The bounds that follow the run are made for runs in which nothing is known to be wrong. When a
    rollback is ordered it is known: before the onset the loss was good, from it on bad. Half way
    between the two, by ratio, an update is not worth its risk. It is there with the order, for
    what is bad must not reach the state that was restored. Constant memory.
    """

    def __init__(self) -> None:
        self._losses: deque[tuple[int, float]] = deque(maxlen=_LOOKED_BACK)
        self._bound: float | None = None
        self._until = -1

    def note(self, step: int, loss: float | None) -> None:
        """A loss that was measured."""
        if loss is not None and math.isfinite(loss):
            self._losses.append((step, loss))

    def draw(self, onset: int, step: int, steps: int) -> None:
        """The run goes back at ``step`` for what began at ``onset``: in force for so many steps."""
        good = [loss for at, loss in self._losses if at < onset]
        bad = [loss for at, loss in self._losses if at >= onset]
        self._bound = None
        if len(good) < _FEWEST_GOOD or not bad:
            return
        below, above = median(good), median(bad)
        if below > 0.0 and max(good) < above:
            self._bound, self._until = math.sqrt(below * above), step + steps

    def lift(self) -> None:
        """The run was not rolled back: what it learns now has to be lived with."""
        self._bound = None

    def bound(self, step: int, *, waits: bool) -> float | None:
        """In force now; ``waits``: bad data is being waited out."""
        return self._bound if waits or step <= self._until else None
