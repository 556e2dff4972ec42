"""A series as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossguard.agent import feed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Curve:
    """Buckets of one metric in the order of their steps; NaN where nothing finite was seen."""

    steps: Ints
    low: Floats
    high: Floats
    last: Floats
    nonfinite: Bools

    def __len__(self) -> int:
        return len(self.steps)

    def between(self, first: int, last: int) -> Curve:
        """The buckets that reach into these steps."""
        start = max(0, int(np.searchsorted(self.steps, first, "right")) - 1)
        end = int(np.searchsorted(self.steps, last, "right"))
        part = slice(start, max(start, end))
        return Curve(
            self.steps[part], self.low[part], self.high[part], self.last[part], self.nonfinite[part]
        )

    def end_of(self, start: int) -> int:
        """The last step of the bucket that begins at ``start``: the next begins one later."""
        place = int(np.searchsorted(self.steps, start, "right"))
        return int(self.steps[place]) - 1 if place < len(self.steps) else start

    def at(self, step: int) -> float:
        """The last value at or before a step; NaN where there is none."""
        place = int(np.searchsorted(self.steps, step, "right")) - 1
        return float(self.last[place]) if place >= 0 else float("nan")


EMPTY = Curve(
    np.empty(0, np.int64),
    np.empty(0),
    np.empty(0),
    np.empty(0),
    np.empty(0, np.bool_),
)


def decode(series: feed.Series | None) -> Curve:
    """The arrays of a series; buffers of unequal length are cut to the shortest."""
    if series is None:
        return EMPTY
    n = min(
        len(series.steps) // 8,
        len(series.low) // 4,
        len(series.high) // 4,
        len(series.last) // 4,
        len(series.nonfinite),
    )
    return Curve(
        np.frombuffer(series.steps, "<i8", n).astype(np.int64),
        _floats(series.low, n),
        _floats(series.high, n),
        _floats(series.last, n),
        np.frombuffer(series.nonfinite, np.uint8, n).astype(np.bool_),
    )


def _floats(buffer: bytes, n: int) -> Floats:
    values = np.frombuffer(buffer, "<f4", n).astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return values
