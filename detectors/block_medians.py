"""A share, judged by the medians of blocks: one long wait or idle moment does not count."""

from __future__ import annotations

from typing import Any

from lossguard.detectors.change_point import onset_index
from lossguard.detectors.streaming import median

_CAP = 0.3
"""What one value adds at most when a crossing is dated [share]."""


class BlockMedians:
    """Medians of blocks of ``size`` shares, and the blocks in a row that are beyond bounds.

    ``beyond[i]`` counts the latest blocks in a row whose median is above ``bounds[i]`` (below it
    for ``sign`` = -1), and ``since`` dates the crossing of ``bounds[0]`` that the row began with:
    CUSUM read backwards over the block and the one before (``onset_index``).
    """

    def __init__(self, size: int, bounds: tuple[float, ...], sign: float = 1.0) -> None:
        self._size = size
        self._bounds = bounds
        self._sign = sign
        self._steps: list[int] = []
        self._values: list[float] = []
        self._before: tuple[list[int], list[float]] = ([], [])
        self.beyond = [0] * len(bounds)
        self.since = 0
        self.median = 0.0
        """Of the latest full block."""

    def push(self, step: int, value: float) -> bool:
        """Take in a share; whether it has filled a block."""
        self._steps.append(step)
        self._values.append(value)
        if len(self._values) < self._size:
            return False
        self.median = median(self._values)
        for i, bound in enumerate(self._bounds):
            is_beyond = self._sign * (self.median - bound) > 0.0
            self.beyond[i] = self.beyond[i] + 1 if is_beyond else 0
        if self.beyond[0] == 1:
            self.since = self._crossing()
        self._before = (self._steps, self._values)
        self._steps, self._values = [], []
        return True

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "steps": list(self._steps),
            "values": list(self._values),
            "before": [list(part) for part in self._before],
            "beyond": list(self.beyond),
            "since": self.since,
            "median": self.median,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._steps, self._values = list(state["steps"]), list(state["values"])
        steps, values = state["before"]
        self._before = (list(steps), list(values))
        self.beyond = list(state["beyond"])
        self.since, self.median = state["since"], state["median"]

    def _crossing(self) -> int:
        steps = self._before[0] + self._steps
        values = [self._sign * value for value in self._before[1] + self._values]
        return steps[onset_index(values, self._sign * self._bounds[0], 0.0, _CAP)]
