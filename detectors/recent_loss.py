"""The latest losses, kept so that a detector of another metric can ask whether the loss agrees."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from lossguard.detectors.streaming import NORMAL_PER_MAD, median

_ENOUGH = 16
"""Losses from which on their own upper tail is known."""
_TAIL_SHARE = 0.9
_ROUNDING = 2.0**-8
"""Relative spacing of bfloat16."""


class RecentLoss:
    """The last ``size`` finite losses: an append a step, and a sort only when asked.

    A loss stands out when, with the median m and sigma = 1.4826 MAD of the n losses,

        loss - m > max(rise (1 + 2 / n) |m|, 6 sigma, 2 (q90 - m))

    or when it is not finite. Not a detector of its own (that is ``LossSpike``): the second
    opinion on trouble that another metric has shown.
    """

    __slots__ = ("_losses", "row")

    def __init__(self, size: int = 64) -> None:
        self._losses: deque[float] = deque(maxlen=size)
        self.row = 0
        """Losses in a row that stood out, among those that were asked about by ``follow``."""

    def push(self, loss: float | None) -> None:
        """Take in a loss, if there is one and it is finite."""
        if loss is not None and math.isfinite(loss):
            self._losses.append(loss)

    def follow(self, loss: float | None, *, asked: bool) -> None:
        """Take in a loss; if ``asked``, one that stands out is counted and left out instead."""
        if loss is None:
            return
        if asked and self.stands_out(loss):
            self.row += 1
        else:
            self.row = 0
            self.push(loss)

    def median(self) -> float:
        """The level; NaN where there is none."""
        return median(list(self._losses)) if self._losses else math.nan

    def stands_out(self, loss: float | None, rise: float = 0.25) -> bool:
        """Whether ``loss`` is above the others by ``rise`` of their level and their noise."""
        if loss is None or len(self._losses) < 2:
            return False
        if not math.isfinite(loss):
            return True
        ordered = sorted(self._losses)
        middle = median(ordered)
        if loss <= middle:
            return False
        spread = median([abs(x - middle) for x in ordered])
        sigma = max(NORMAL_PER_MAD * spread, _ROUNDING * abs(middle))
        least = max(rise * (1.0 + 2.0 / len(ordered)) * abs(middle), 6.0 * sigma)
        if len(ordered) >= _ENOUGH:
            tail = ordered[int(_TAIL_SHARE * len(ordered))]
            least = max(least, 2.0 * (tail - middle))
        return loss - middle > least

    def values(self) -> list[float]:
        """The losses, oldest first."""
        return list(self._losses)

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [list(self._losses), self.row]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        losses, self.row = state
        self._losses = deque(losses, maxlen=self._losses.maxlen)
