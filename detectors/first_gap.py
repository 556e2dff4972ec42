"""Validation losses that are far from the training loss from the very first ones on."""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import Any

from lossguard.detectors.streaming import median, noise

_WINDOW = 32
_FIRST = 3
_GROWTH = 1.5
"""Growth of the ratio over the first evaluations that looks like overfitting."""


class FirstGap:
    """Compares the first three validation losses with the training losses before them.

    The gap is there when each of the three is more than ``ratio`` times the median of the last 32
    training losses and beyond 6 sigma of their noise, and the ratio does not grow by half from
    one to the next: a gap that opens is overfitting's.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._ratios: list[float] = []
        self._steps: list[int] = []

    @property
    def decided(self) -> bool:
        """Whether the first evaluations are over."""
        return len(self._ratios) >= _FIRST

    def train(self, loss: float) -> None:
        """Take in a training loss."""
        if math.isfinite(loss):
            self._losses.append(loss)

    def evaluate(self, step: int, val_loss: float) -> tuple[float, int] | None:
        """Take in a validation loss: the ratio and the first step, once the gap is sure."""
        if self.decided or not self._losses or not math.isfinite(val_loss):
            return None
        losses = list(self._losses)
        level = median(losses)
        if level <= 0.0 or val_loss <= 0.0:
            self._ratios = [0.0] * _FIRST
            return None
        far = val_loss - level > 6.0 * noise(losses)
        self._ratios.append(val_loss / level if far else 0.0)
        self._steps.append(step)
        ratios = self._ratios
        if len(ratios) < _FIRST or min(ratios) <= self._ratio:
            return None
        if any(b > _GROWTH * a for a, b in itertools.pairwise(ratios)):
            return None
        return median(ratios), self._steps[0]

    def now(self, val_loss: float) -> float:
        """The ratio of this validation loss; 0 where there is none."""
        level = median(list(self._losses)) if self._losses else 0.0
        return val_loss / level if level > 0.0 and math.isfinite(val_loss) else 0.0

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [list(self._losses), list(self._ratios), list(self._steps)]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        losses, ratios, steps = state
        self._losses = deque(losses, maxlen=_WINDOW)
        self._ratios, self._steps = list(ratios), list(steps)
