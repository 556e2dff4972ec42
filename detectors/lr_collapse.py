"""A learning rate that is nearly nothing all at once."""

from __future__ import annotations

from collections import deque
from typing import Any

_DECAY = 4.0
"""The last value of a decay is at most so many times its last decrement: 1 for a linear one,
1/3 for a cosine, 1/9 for a division by ten."""
_DECREMENTS = 8
_BACK = 100.0
"""A rate within this factor of what it was is back; one that far below the peak, as the last
digits of a decay in a log that rounds, has little left to lose."""
_CLIMB = 1.5
"""A rate that has climbed by this since the drop is on a ramp: a cycle or a warm-up begins."""


class RateCollapse:
    """Counts the rates since a drop by ``factor`` at once that no decay explains.

    The end of a decay to zero is preceded by decrements of the size of what is left. A rate
    that climbs again within ``stay`` observations has begun a new cycle.
    """

    def __init__(self, factor: float, stay: int) -> None:
        self._factor = factor
        self._stay = stay
        self.begin()

    def begin(self) -> None:
        """Know nothing."""
        self._last = 0.0
        self._decrements: deque[float] = deque(maxlen=_DECREMENTS)
        self.drop()

    def drop(self) -> None:
        """Forget the drop: it has been told, or it was none."""
        self.before = 0.0
        self.since = 0
        self._bottom = 0.0
        self._down = 0

    def push(self, step: int, lr: float, peak: float) -> int:
        """Take in a rate, and the run's highest; for how many observations it is down, or 0."""
        last, self._last = self._last, lr
        if self._down:
            if lr * _BACK >= self.before or (
                self._down < self._stay and lr > _CLIMB * self._bottom
            ):
                self.drop()
            else:
                self._down += 1
        elif lr * self._factor < last and self._mattered(last, peak):
            self.before, self.since, self._bottom, self._down = last, step, lr, 1
        if lr < last:
            self._decrements.append(last - lr)
        elif self._decrements:
            self._decrements.append(0.0)
        return self._down

    def _mattered(self, last: float, peak: float) -> bool:
        """Whether the rate before the drop was neither the end of a decay nor next to nothing."""
        return last * _BACK > peak and last > _DECAY * max(self._decrements, default=0.0)

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [
            self._last,
            list(self._decrements),
            self.before,
            self.since,
            self._bottom,
            self._down,
        ]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._last, decrements, self.before, self.since, self._bottom, self._down = state
        self._decrements = deque(decrements, maxlen=_DECREMENTS)
