"""The whole run in a bounded number of blocks: the shape of a curve of any length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossguard.detectors.streaming import median

_CHUNK = 32
"""Values of which a median is taken; a larger block is the mean of such medians."""
_LARGEST = 1e30
"""Values are clipped to it, so that sums stay finite."""


class RunCurve:
    """The medians of at most ``limit`` blocks of equal size, from the first value to the last.

    A block holds one value at first; whenever ``limit`` blocks are full, neighbours are merged
    (the mean of the two) and the size doubles. There are so always between ``limit / 2`` and
    ``limit`` blocks in a long run. A value counts as the median of itself and its two
    neighbours, so that one giant leaves no trace. Amortised O(1) a value.
    """

    __slots__ = ("_chunk", "_limit", "_recent", "_total", "_weight", "count",
        "first_step", "medians", "size",
                 "steps")  # fmt: skip

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._recent: list[float] = []
        self._chunk: list[float] = []
        self._total = 0.0
        self._weight = 0
        self.first_step = 0
        """The step of the first value."""
        self.size = 1
        """Values in a block."""
        self.count = 0
        """Values taken in."""
        self.steps: list[int] = []
        """The last step of each full block."""
        self.medians: list[float] = []
        """The level of each full block."""

    def push(self, step: int, value: float) -> bool:
        """Take in a finite value; whether a block is full with it."""
        if not self.count:
            self.first_step = step
        self.count += 1
        value = min(max(value, -_LARGEST), _LARGEST)
        recent = self._recent
        recent.append(value)
        if len(recent) < 3:
            return False
        first, second, third = recent
        del recent[0]
        low, high = (first, second) if first < second else (second, first)
        chunk = self._chunk
        chunk.append(low if third < low else min(high, third))
        size = self.size
        if len(chunk) < size and len(chunk) < _CHUNK:
            return False
        self._total += median(chunk) * len(chunk)
        self._weight += len(chunk)
        chunk.clear()
        if self._weight < size:
            return False
        self.steps.append(step)
        self.medians.append(self._total / self._weight)
        self._total, self._weight = 0.0, 0
        if len(self.medians) >= self._limit:
            self._merge()
        return True

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "recent": list(self._recent),
            "chunk": list(self._chunk),
            "total": self._total,
            "weight": self._weight,
            "first_step": self.first_step,
            "size": self.size,
            "count": self.count,
            "steps": list(self.steps),
            "medians": list(self.medians),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the curve that ``state`` came from."""
        self._recent = list(state["recent"])
        self._chunk = list(state["chunk"])
        self._total = state["total"]
        self._weight = state["weight"]
        self.first_step = state["first_step"]
        self.size = state["size"]
        self.count = state["count"]
        self.steps = list(state["steps"])
        self.medians = list(state["medians"])

    def _merge(self) -> None:
        old = self.medians
        self.medians = [0.5 * (old[i] + old[i + 1]) for i in range(0, len(old) - 1, 2)]
        self.steps = self.steps[1::2]
        self.size *= 2
