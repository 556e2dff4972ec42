"""A positive metric that falls to next to nothing and stays there."""

from __future__ import annotations

from typing import Any

from lossguard.detectors.streaming import SortedWindow

_WINDOW = 256
_LEAST = 32
_SETTLE = 2048
"""Values in a row that are next to nothing until they are the new level."""


class Fading:
    """Counts values in a row below ``share`` of the median of the last 256 others."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._usual = SortedWindow(_WINDOW)
        self.count = 0
        self.since = 0
        """Step of the first of them."""

    @property
    def usual(self) -> float:
        """The level before, in the unit of the metric; 0 before there is one."""
        return self._usual.median() if len(self._usual) else 0.0

    def push(self, step: int, value: float) -> None:
        """Take in a finite value >= 0."""
        if len(self._usual) < _LEAST or value >= self._share * self._usual.median():
            self._usual.push(value)
            self.count = 0
            return
        if not self.count:
            self.since = step
        self.count += 1
        if self.count >= _SETTLE:
            self._usual = SortedWindow(_WINDOW, [value] * _LEAST)
            self.count = 0

    def clear(self) -> None:
        """Forget the values that are next to nothing."""
        self.count = 0

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [self._usual.values(), self.count, self.since]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        usual, self.count, self.since = state
        self._usual = SortedWindow(_WINDOW, usual)
