"""When a run has left its beginning behind."""

from __future__ import annotations

import math
from typing import Any

_PATIENCE = 100
"""Observations without a higher learning rate after which the warm-up is over."""


class WarmUp:
    """The time from which a level is a settled one.

    ``least`` observations, or twice the warm-up of the learning rate if that is more: activations
    and weights that are small at first grow tenfold and more while it lasts.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._peak = 0.0
        self._rose_at = 0
        self._over = False

    @property
    def settled_tick(self) -> int:
        """The number of the first observation that counts."""
        return max(self._least, 2 * self._rose_at)

    @property
    def peak(self) -> float:
        """The highest learning rate of the beginning."""
        return self._peak

    def push(self, tick: int, lr: float | None) -> None:
        """Take in the learning rate of observation number ``tick``, where it is known."""
        if self._over or lr is None or not math.isfinite(lr):
            return
        if lr > self._peak:
            self._peak = lr
            self._rose_at = tick
        elif tick - self._rose_at > _PATIENCE:
            self._over = True

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [self._peak, self._rose_at, self._over]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._peak, self._rose_at, self._over = state
