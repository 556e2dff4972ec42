"""The range in which a metric of the input batches usually lies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.streaming import median

_WINDOW = 256
"""Accepted values that the tail is taken from; also of one block of the maximum."""
_BLOCKS = 8
"""Blocks over which the maximum is remembered."""
_LEAST = 16
"""Accepted values before there is a range."""
_EVERY = 64
"""Accepted values between two looks at the tail."""
_ABSURD = 1000.0
"""Multiple of the median at which an early value does not enter."""
_OPEN = 1e300


class Margin(ABC):
    """How far above the range a value must stand."""

    in_log: bool
    """Whether the metric has a ratio scale."""

    @abstractmethod
    def above(self, usual: UsualRange) -> tuple[float, float]:
        """The bounds from which a value is out of its range, and grossly so."""


@dataclass(frozen=True, slots=True)
class ShareMargin(Margin):
    """For shares: an added margin, gross from a share of its own."""

    margin: float
    gross: float
    in_log = False

    def above(self, usual: UsualRange) -> tuple[float, float]:
        """The bounds: out of range, and grossly so."""
        bound = usual.highest + self.margin * usual.youth
        return bound, max(bound, self.gross)


@dataclass(frozen=True, slots=True)
class FactorMargin(Margin):
    """For sizes: a factor on the highest, and the extreme-value tail of the last 256."""

    factor: float
    gross: float
    probability: float
    in_log = True

    def above(self, usual: UsualRange) -> tuple[float, float]:
        """The bounds: out of range, and grossly so."""
        tail = usual.tail(self.probability)
        bound = max(usual.highest * self.factor * usual.youth, tail)
        return bound, max(bound, usual.highest * self.gross, usual.tail(self.probability**2))


class UsualRange:
    """The highest of the last 2,300 or so accepted values, and the tail of the last 256.

    An accepted value costs an append; a sort of 256 every 64.
    """

    def __init__(self, margin: Margin) -> None:
        self._margin = margin
        self._values: deque[float] = deque(maxlen=_WINDOW)
        self._maxima: deque[float] = deque(maxlen=_BLOCKS)
        self._block_max = math.inf
        self._tail = (0.0, 0.0, 0.0)
        self._next = _LEAST
        self.count = 0
        self.highest = 0.0
        self.bound = _OPEN if margin.in_log else 1.0
        self.gross = _OPEN

    @property
    def is_size(self) -> bool:
        """Whether the metric has no upper end, as shares have."""
        return self._margin.in_log

    @property
    def known(self) -> bool:
        """Whether there is a range yet."""
        return self.count >= _LEAST

    @property
    def youth(self) -> float:
        """1 + 16 / n: margins are wider while little is known."""
        return 1.0 + _LEAST / max(self.count, 1)

    def accept(self, value: float) -> None:
        """Let a finite value in."""
        self._values.append(value)
        self.count += 1
        if value > self._block_max:
            self._block_max = value
            if value > self.highest:
                self.highest = value
                self.bound, self.gross = self._margin.above(self)
        if self.count >= self._next:
            self._look()

    def tail(self, probability: float) -> float:
        """The value that one exceeds with ``probability``, by the Hill estimator.

        As ``Level.tail_bound``, in y = log(x): u + g ln(k / (n p)).
        """
        start, excess, share = self._tail
        if share == 0.0:
            return 0.0
        y = start + excess * math.log(max(share / probability, 1.0))
        return math.exp(y) if y < 690.0 else _OPEN

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "values": list(self._values),
            "maxima": list(self._maxima),
            "tail": list(self._tail),
            "numbers": [
                self.count, self._next, self._block_max, self.highest, self.bound, self.gross,
            ],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._values = deque(state["values"], maxlen=_WINDOW)
        self._maxima = deque(state["maxima"], maxlen=_BLOCKS)
        start, excess, share = state["tail"]
        self._tail = (start, excess, share)
        self.count, self._next, self._block_max, self.highest, self.bound, self.gross = state[
            "numbers"
        ]

    def _look(self) -> None:
        """Take the tail and the maximum anew."""
        ordered = sorted(self._values)
        if self.is_size:
            most = _ABSURD * median(ordered)
            if self.count == _LEAST and ordered[-1] > most > 0.0:
                self._values = deque([x for x in self._values if x <= most], maxlen=_WINDOW)
                ordered = sorted(self._values)
            self._tail = _hill([x for x in ordered if x > 0.0])
        if self.count == _LEAST:
            self._block_max = ordered[-1]
        self.highest = max(self._block_max, *self._maxima, ordered[-1])
        if self.count % _WINDOW == 0:
            self._maxima.append(self._block_max)
            self._block_max = 0.0
        self._next = self.count + min(self.count, _EVERY)
        self.bound, self.gross = self._margin.above(self)


def _hill(ordered: list[float]) -> tuple[float, float, float]:
    """Start of the tail and mean excess, both in log, and the share of values beyond the start."""
    n = len(ordered)
    if n < _LEAST:
        return 0.0, 0.0, 0.0
    k = max(4, n // 50)
    start = math.log(ordered[-k - 1])
    excess = sum(math.log(x) - start for x in ordered[-k:]) / k
    return start, excess, k / n
