"""A metric over a whole run in constant memory, in which no one-step spike is lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lossguard.agent.feed import Series


class MetricHistory:
    """Buckets of equal width in steps, with the lowest, highest and last value of each.

    When all ``capacity`` buckets are full, neighbours are merged and the width doubles. About
    45 KB a metric, at step 100 as at step 100 million; adding a value is O(1) amortised.
    """

    def __init__(self, capacity: int = 2048) -> None:
        self._capacity = capacity
        self._width = 1
        self._used = 0
        self._steps = np.zeros(capacity, dtype=np.int64)
        self._low = np.zeros(capacity, dtype=np.float32)
        self._high = np.zeros(capacity, dtype=np.float32)
        self._last = np.zeros(capacity, dtype=np.float32)
        self._nonfinite = np.zeros(capacity, dtype=np.uint8)

    def add(self, step: int, value: float) -> None:
        """Take in one value. A step below the last bucket's counts into that bucket."""
        start = step - step % self._width
        finite = math.isfinite(value) and abs(value) < 3.4e38
        kept = value if finite else math.nan
        i = self._used - 1
        if i >= 0 and start <= self._steps[i]:
            if finite:
                self._low[i] = np.fmin(self._low[i], kept)
                self._high[i] = np.fmax(self._high[i], kept)
                self._last[i] = kept
            else:
                self._nonfinite[i] = 1
            return
        if self._used == self._capacity:
            self._halve()
            self.add(step, value)
            return
        i = self._used
        self._used += 1
        self._steps[i] = start
        self._low[i] = self._high[i] = self._last[i] = kept
        self._nonfinite[i] = not finite

    def _halve(self) -> None:
        while self._used > self._capacity // 2:
            self._width *= 2
            used = slice(0, self._used)
            starts = self._steps[used] - self._steps[used] % self._width
            first = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
            last = np.append(first[1:], self._used) - 1
            merged = len(first)
            self._low[:merged] = np.fmin.reduceat(self._low[used], first)
            self._high[:merged] = np.fmax.reduceat(self._high[used], first)
            self._nonfinite[:merged] = np.maximum.reduceat(self._nonfinite[used], first)
            # At most two buckets become one: if the second has no finite value, the first's stays.
            tail, head = self._last[used][last], self._last[used][first]
            self._last[:merged] = np.where(np.isnan(tail), head, tail)
            self._steps[:merged] = starts[first]
            self._used = merged

    @property
    def width(self) -> int:
        """Of a bucket [steps]."""
        return self._width

    def spark(self, cells: int) -> bytes:
        """Lowest and highest value of each of at most ``cells`` stretches: pairs of float32."""
        used = self._used
        if not used:
            return b""
        first = np.unique(np.linspace(0, used, min(cells, used), endpoint=False).astype(int))
        pairs = np.stack(
            (
                np.fmin.reduceat(self._low[:used], first),
                np.fmax.reduceat(self._high[:used], first),
            ),
            axis=1,
        )
        return pairs.astype("<f4").tobytes()

    def series(self, metric: str) -> Series:
        """As viewers get it."""
        used = slice(0, self._used)
        return Series(
            metric=metric,
            steps=self._steps[used].tobytes(),
            low=self._low[used].tobytes(),
            high=self._high[used].tobytes(),
            last=self._last[used].tobytes(),
            nonfinite=self._nonfinite[used].tobytes(),
        )

    def state(self) -> dict[str, Any]:
        """Everything, as plain data."""
        series = self.series("")
        return {
            "width": self._width,
            "steps": series.steps,
            "low": series.low,
            "high": series.high,
            "last": series.last,
            "nonfinite": series.nonfinite,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take the place of the history that ``state`` came from."""
        steps = np.frombuffer(state["steps"], dtype=np.int64)
        self._used = min(len(steps), self._capacity)
        used = slice(0, self._used)
        self._width = int(state["width"])
        self._steps[used] = steps[used]
        for name in ("low", "high", "last"):
            getattr(self, f"_{name}")[used] = np.frombuffer(state[name], dtype=np.float32)[used]
        self._nonfinite[used] = np.frombuffer(state["nonfinite"], dtype=np.uint8)[used]
