"""A metric of a run of any length as a few thousand of its points, the extremes always among them.

The steps are cut into stretches of equal length. Of each stretch the lowest and the highest value
are kept, each with the very step it was measured at, so a spike of one step stays visible and
exact. The mean of each stretch gives the smoothed line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SMOOTHED_OVER = 0.02
"""Share of the run over which the smoothed line averages."""
_BESIDE = 4


@dataclass(frozen=True)
class Curve:
    """Points in the order of their steps. ``nonfinite`` has the first step with NaN or Inf of every
    stretch that has one, ``num_nonfinite`` counts all of them."""

    metric: str
    steps: Steps
    values: Floats
    mean_steps: Steps
    means: Floats
    nonfinite: Steps
    count: int
    num_nonfinite: int

    @property
    def is_whole(self) -> bool:
        """Whether every measured value is a point."""
        return len(self.steps) == self.count - self.num_nonfinite

    @property
    def last(self) -> tuple[int, float] | None:
        """The last point: (step, value)."""
        return self._point(-1) if len(self.steps) else None

    @property
    def lowest(self) -> tuple[int, float] | None:
        return self._point(int(np.argmin(self.values))) if len(self.steps) else None

    @property
    def highest(self) -> tuple[int, float] | None:
        return self._point(int(np.argmax(self.values))) if len(self.steps) else None

    def _point(self, i: int) -> tuple[int, float]:
        return int(self.steps[i]), float(self.values[i])

    def smoothed(self, cuts: tuple[int, ...] = ()) -> Floats:
        """An exponential average over 2 % of the means, begun anew at every step in ``cuts``; of
        nine neighbours the median counts, so that one spike does not lift it for long."""
        keep = 1.0 - 2.0 / (max(2.0, _SMOOTHED_OVER * len(self.means)) + 1.0)
        smooth = np.empty_like(self.means)
        begins = {0, *np.searchsorted(self.mean_steps, np.array(cuts, dtype=np.int64)).tolist()}
        level = weight = 0.0
        for i, median in enumerate(_medians(self.means).tolist()):
            if i in begins:
                level = weight = 0.0
            level = keep * level + (1.0 - keep) * median
            weight = keep * weight + (1.0 - keep)
            smooth[i] = level / weight
        return smooth


class CurveBuilder:
    """Takes in the values of one metric, in any number of pieces; constant memory."""

    def __init__(self, metric: str, first: int, last: int, stretches: int) -> None:
        self._metric = metric
        self._first = first
        self._width = -(-(last - first + 1) // stretches)
        size = -(-(last - first + 1) // self._width)
        self._low = np.full(size, np.inf)
        self._high = np.full(size, -np.inf)
        self._low_step = np.zeros(size, dtype=np.int64)
        self._high_step = np.zeros(size, dtype=np.int64)
        self._last_step = np.full(size, -1, dtype=np.int64)
        self._last = np.zeros(size)
        self._sum = np.zeros(size)
        self._num = np.zeros(size, dtype=np.int64)
        self._broken = np.full(size, np.iinfo(np.int64).max, dtype=np.int64)
        self._num_broken = 0

    def add(self, steps: Steps, values: Floats) -> None:
        """More values, their steps ascending within the piece."""
        finite = np.isfinite(values)
        if not finite.all():
            self._add_broken(steps[~finite])
            steps, values = steps[finite], values[finite]
        if not len(steps):
            return
        stretch = (steps - self._first) // self._width
        begin = np.flatnonzero(np.diff(stretch, prepend=stretch[0] - 1))
        where, sizes = stretch[begin], np.diff(begin, append=len(steps))
        self._sum[where] += np.add.reduceat(values, begin)
        self._num[where] += sizes
        lows = np.minimum.reduceat(values, begin)
        highs = np.maximum.reduceat(values, begin)
        lower, higher = lows < self._low[where], highs > self._high[where]
        at = steps[_first_equal(values, lows, begin, sizes)]
        self._low[where[lower]] = lows[lower]
        self._low_step[where[lower]] = at[lower]
        at = steps[_first_equal(values, highs, begin, sizes)]
        self._high[where[higher]] = highs[higher]
        self._high_step[where[higher]] = at[higher]
        ends = begin + sizes - 1
        later = steps[ends] > self._last_step[where]
        self._last_step[where[later]] = steps[ends][later]
        self._last[where[later]] = values[ends][later]

    def _add_broken(self, steps: Steps) -> None:
        self._num_broken += len(steps)
        np.minimum.at(self._broken, (steps - self._first) // self._width, steps)

    def curve(self) -> Curve:
        """What was taken in. The last value of all is a point, whatever its height."""
        there = np.flatnonzero(self._num)
        steps = np.concatenate([self._low_step[there], self._high_step[there]])
        values = np.concatenate([self._low[there], self._high[there]])
        if len(there):
            steps = np.append(steps, self._last_step[there[-1]])
            values = np.append(values, self._last[there[-1]])
        steps, first = np.unique(steps, return_index=True)
        broken = self._broken[self._broken < np.iinfo(np.int64).max]
        middle = self._first + there * self._width + (self._width - 1) // 2
        last = self._last_step[there[-1]] if len(there) else 0
        return Curve(
            metric=self._metric,
            steps=steps,
            values=values[first],
            mean_steps=np.minimum(middle, last),
            means=self._sum[there] / self._num[there],
            nonfinite=broken,
            count=int(self._num.sum()) + self._num_broken,
            num_nonfinite=self._num_broken,
        )


def _medians(values: Floats) -> Floats:
    """Of each value and the four on either side."""
    if not len(values):
        return values
    padded = np.pad(values, _BESIDE, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _BESIDE + 1)
    medians: Floats = np.median(windows, axis=1)
    return medians


def _first_equal(
    values: Floats, wanted: Floats, begin: npt.NDArray[np.intp], sizes: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Of each piece the index of the first value that equals the wanted one."""
    hits = np.flatnonzero(values == np.repeat(wanted, sizes))
    return hits[np.searchsorted(hits, begin)]
