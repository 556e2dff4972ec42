"""Maxima of blocks of observations on several scales of time, in constant memory."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

_SCALES = 3
_RATIO = 16
"""Blocks of one scale in a block of the next."""


class _Scale:
    """The last maxima of one scale, and the block that is being filled."""

    __slots__ = ("count", "first", "highest", "size", "steps", "values")

    def __init__(self, size: int, keep: int) -> None:
        self.size = size
        self.steps: deque[int] = deque(maxlen=keep)
        self.values: deque[float] = deque(maxlen=keep)
        self.count = 0
        self.first = 0
        self.highest = 0.0

    def push(self, step: int, value: float) -> bool:
        """Take in a value; whether it has filled a block."""
        if self.count == 0:
            self.first = step
            self.highest = value
        elif value > self.highest:
            self.highest = value
        self.count += 1
        if self.count < self.size:
            return False
        self.steps.append(self.first)
        self.values.append(self.highest)
        self.count = 0
        return True


class BlockMaxima:
    """The last ``keep`` maxima of blocks of ``size``, 16 ``size`` and 256 ``size`` observations."""

    def __init__(self, size: int, keep: int) -> None:
        self._scales = [_Scale(size if i == 0 else _RATIO, keep) for i in range(_SCALES)]

    @property
    def num_scales(self) -> int:
        """How many scales there are."""
        return _SCALES

    def push(self, step: int, value: float) -> int:
        """Take in a value > 0; how many scales have got a new block by it."""
        if not self._scales[0].push(step, value):
            return 0
        for i in range(1, _SCALES):
            below = self._scales[i - 1]
            if not self._scales[i].push(below.steps[-1], below.values[-1]):
                return i
        return _SCALES

    def maxima(self, scale: int, count: int) -> list[float]:
        """The last ``count`` maxima of a scale, oldest first; fewer while there are fewer."""
        return list(self._scales[scale].values)[-count:]

    def steps(self, scale: int, count: int) -> list[int]:
        """The first steps of those blocks."""
        return list(self._scales[scale].steps)[-count:]

    def lowest(self) -> float:
        """The lowest maximum still remembered, on any scale; 0 where there is none."""
        return min((min(scale.values) for scale in self._scales if scale.values), default=0.0)

    def highest_before(self, step: int) -> float:
        """The highest maximum of the remembered blocks that were over before ``step``, or 0."""
        over = (
            value
            for scale in self._scales
            for value, after in zip(
                scale.values, itertools.islice(scale.steps, 1, None), strict=False
            )
            if after <= step
        )
        return max(over, default=0.0)

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [[list(s.steps), list(s.values), s.count, s.first, s.highest] for s in self._scales]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        for scale, (steps, values, count, first, highest) in zip(self._scales, state, strict=True):
            scale.steps = deque(steps, maxlen=scale.steps.maxlen)
            scale.values = deque(values, maxlen=scale.values.maxlen)
            scale.count, scale.first, scale.highest = count, first, highest
