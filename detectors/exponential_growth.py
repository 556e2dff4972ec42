"""A positive metric that grows by a factor again and again, while the loss does not improve."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.streaming import SortedWindow, median

_BLOCK = 8
_BLOCKS = 64
_WINDOW = 25
"""Blocks within which the growth must happen."""
_LEAST_BLOCKS = 4
_STEADY = 0.7
"""Least Kendall's tau of the blocks that grow."""
_AT_ONCE = 0.75
"""Share of the growth from a block to the next but one beyond which it is a jump."""
_LOSS_FELL = 0.98
"""Loss over the one before the growth at which the growth is a run getting off the ground."""
_USUAL = 256
_LEAST_USUAL = 32
_ACCEPTED = 10.0
"""Multiple of the median up to which a value is usual."""
_SETTLE = 512
"""Values in a row beyond that until they are."""
_SURGE = 5
"""Values in a row that make a surge."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth that was found."""

    since: int
    """First step of the block that it began in."""
    before: float
    after: float
    surge: bool
    """Whether it is far beyond what was usual, and rising still."""


class ExponentialGrowth:
    """Block medians (8 values) that grow by ``factor`` within 200 values, and a surge.

    Growth: of the last 25 blocks the latest exceeds the lowest by ``factor`` and everything before
    that one; at least four blocks, with Kendall's tau of 0.7 at least, against noise, and no more
    than 75 % of it within two blocks, against jumps; and the loss is not below 98 % of what it was
    in the lowest block.
    Surge: five values in a row above ``surge`` times the usual (median of the last 256 that were
    not ten times the usual), the last higher than the first, the loss not below its former median.
    """

    def __init__(self, factor: float, surge: float) -> None:
        self._least = math.log(factor)
        self._surge = surge
        self._norms: list[float] = []
        self._losses: deque[float] = deque(maxlen=_BLOCK)
        self._first_step = 0
        self._blocks: deque[tuple[int, float, float | None]] = deque(maxlen=_BLOCKS)
        self._usual = SortedWindow(_USUAL)
        self._usual_loss = SortedWindow(_LEAST_USUAL)
        self._beyond: deque[float] = deque(maxlen=_SURGE)
        self._num_beyond = 0
        self._growth: tuple[int, float, float] | None = None

    @property
    def active(self) -> bool:
        """Whether the latest block grew."""
        return self._growth is not None

    def push(self, step: int, value: float, loss: float | None) -> Growth | None:
        """Take in a finite value > 0 and the loss of the same step, where there is one."""
        surge = self._push_usual(value, loss)
        if not self._norms:
            self._first_step = step
        self._norms.append(math.log(value))
        if loss is not None:
            self._losses.append(loss)
        if len(self._norms) == _BLOCK:
            middle = median(list(self._losses)) if self._losses else None
            self._blocks.append((self._first_step, median(self._norms), middle))
            self._norms = []
            self._losses.clear()
            self._growth = self._judge()
        if self._growth is None:
            return None
        since, before, after = self._growth
        return Growth(since, _exp(before), max(_exp(after), value if surge else 0.0), surge)

    def clear(self) -> None:
        """Forget the growth, but not what is usual."""
        self._growth = None
        self._num_beyond = 0
        self._beyond.clear()

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "norms": list(self._norms),
            "losses": list(self._losses),
            "first_step": self._first_step,
            "blocks": [list(block) for block in self._blocks],
            "usual": self._usual.values(),
            "usual_loss": self._usual_loss.values(),
            "beyond": list(self._beyond),
            "num_beyond": self._num_beyond,
            "growth": None if self._growth is None else list(self._growth),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._norms = list(state["norms"])
        self._losses = deque(state["losses"], maxlen=_BLOCK)
        self._first_step = state["first_step"]
        self._blocks = deque(((s, y, x) for s, y, x in state["blocks"]), maxlen=_BLOCKS)
        self._usual = SortedWindow(_USUAL, state["usual"])
        self._usual_loss = SortedWindow(_LEAST_USUAL, state["usual_loss"])
        self._beyond = deque(state["beyond"], maxlen=_SURGE)
        self._num_beyond = state["num_beyond"]
        growth = state["growth"]
        self._growth = None if growth is None else (growth[0], growth[1], growth[2])

    def _push_usual(self, value: float, loss: float | None) -> bool:
        usual = self._usual
        if len(usual) < _LEAST_USUAL or value <= _ACCEPTED * usual.median():
            usual.push(value)
            if loss is not None:
                self._usual_loss.push(loss)
            self._num_beyond = 0
            self._beyond.clear()
            return False
        self._num_beyond += 1
        if self._num_beyond >= _SETTLE:
            self._usual = SortedWindow(_USUAL, [value] * _LEAST_USUAL)
            self._num_beyond = 0
            return False
        if value <= self._surge * usual.median():
            self._beyond.clear()
            return False
        self._beyond.append(value)
        risen = len(self._beyond) == _SURGE and self._beyond[-1] > self._beyond[0]
        worse = loss is not None and len(self._usual_loss) and loss >= self._usual_loss.median()
        return bool(risen and worse)

    def _judge(self) -> tuple[int, float, float] | None:
        """First step, level before and level after of the growth that the blocks end in."""
        heights = [height for _, height, _ in self._blocks]
        start = max(0, len(heights) - _WINDOW)
        lowest = min(range(start, len(heights)), key=lambda i: (heights[i], -i))
        rising, before = heights[lowest:], heights[:lowest]
        if len(rising) < _LEAST_BLOCKS or rising[-1] - rising[0] < self._least:
            return None
        if before and rising[-1] <= max(before):
            return None
        if len(before) >= _LEAST_BLOCKS and rising[-1] - median(before) < self._least:
            return None
        largest = max(b - a for a, b in zip(rising, rising[2:], strict=False))
        if _kendall(rising) < _STEADY or largest > _AT_ONCE * (rising[-1] - rising[0]):
            return None
        then, now = self._blocks[lowest][2], self._blocks[-1][2]
        if then is None or now is None:
            if len(before) < 2 * _LEAST_BLOCKS:
                return None
        elif then - now > (1.0 - _LOSS_FELL) * abs(then):
            return None
        level = median(before) if len(before) >= _LEAST_BLOCKS else rising[0]
        return self._blocks[lowest][0], level, rising[-1]


def _kendall(values: Sequence[float]) -> float:
    """Kendall's tau of the values with their order: 1 where each exceeds all before it."""
    pairs = list(itertools.combinations(values, 2))
    return sum((b > a) - (b < a) for a, b in pairs) / len(pairs)


def _exp(y: float) -> float:
    return math.exp(min(y, 709.0))
