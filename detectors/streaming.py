"""Streaming order statistics: medians and quantiles of the last values, kept sorted."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable

NORMAL_PER_MAD = 1.4826
"""Sigma of a normal distribution in units of its median absolute deviation."""


class SortedWindow:
    """The last ``size`` finite values, in order of arrival and sorted.

    ``push`` costs a binary search and a shift of at most ``size`` pointers; median and
    quantiles are look-ups.
    """

    __slots__ = ("_arrived", "_ordered", "size")

    def __init__(self, size: int, values: Iterable[float] = ()) -> None:
        self.size = size
        self._arrived: deque[float] = deque(values, maxlen=size)
        self._ordered = sorted(self._arrived)

    def __len__(self) -> int:
        return len(self._ordered)

    def push(self, value: float) -> None:
        """Take in a value; the oldest one leaves a full window."""
        ordered = self._ordered
        if len(ordered) == self.size:
            del ordered[bisect_left(ordered, self._arrived[0])]
        self._arrived.append(value)
        insort(ordered, value)

    def median(self) -> float:
        """The middle value, or the mean of the two middle ones. Needs at least one value."""
        ordered = self._ordered
        half = len(ordered) // 2
        if len(ordered) % 2:
            return ordered[half]
        return 0.5 * (ordered[half - 1] + ordered[half])

    def quantile(self, share: float, num_above: int = 0) -> float:
        """The smallest value that at least ``share`` of the values do not exceed, or a smaller
        one that ``num_above`` values do."""
        ordered = self._ordered
        rank = int(share * len(ordered))
        return ordered[max(min(rank, len(ordered) - 1 - num_above), 0)]

    def grain(self) -> float:
        """The smallest of the values above zero where some are zero: the spacing of a metric that
        was rounded, if the values are its steps. 0 where none is zero, or all are."""
        ordered = self._ordered
        if not ordered or ordered[0] > 0.0 or ordered[-1] <= 0.0:
            return 0.0
        return ordered[bisect_right(ordered, 0.0)]

    def top(self, count: int) -> list[float]:
        """The ``count`` largest values, ascending."""
        return self._ordered[-count:]

    def values(self) -> list[float]:
        """The values in order of arrival."""
        return list(self._arrived)


def median(values: list[float]) -> float:
    """The median of a short list."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return 0.5 * (ordered[half - 1] + ordered[half])


def noise(values: list[float]) -> float:
    """Sigma of the noise on a slow trend, from the differences of neighbours.

    1.4826 * median |x[i+1] - x[i]| / sqrt(2), in the unit of the values: a trend shifts all
    differences a little and outliers only a few (von Neumann's difference estimator, 1941, with
    the median in place of the mean).
    """
    if len(values) < 2:
        return 0.0
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    return NORMAL_PER_MAD * median(steps) / 2**0.5


def wander(values: list[float]) -> float:
    """Sigma of what is left of neighbours' differences when their median, the trend, is taken out.

    1.4826 * median |d - median(d)| / sqrt(2) with d = x[i+1] - x[i], in the unit of the values.
    """
    if len(values) < 3:
        return noise(values)
    steps = [b - a for a, b in itertools.pairwise(values)]
    trend = median(steps)
    return NORMAL_PER_MAD * median([abs(step - trend) for step in steps]) / 2**0.5
