"""Whether a loss has lately made progress."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from lossguard.detectors.streaming import median, noise

_BLOCK = 16
_BLOCKS = 12
_LEAST_BLOCKS = 5
_LEAST_GAIN = 0.01
_MEDIAN_ERROR = 1.2533
"""Standard error of a median in units of sigma / sqrt(n), for normal noise."""


class LossProgress:
    """Compares the last two blocks of 16 losses with the two oldest of the last twelve.

    Progress is a fall of the median by 1 % and by two standard errors of a difference of medians
    (normal noise). ``stalled`` needs 80 losses.
    """

    def __init__(self) -> None:
        self._block: list[float] = []
        self._blocks: deque[list[float]] = deque(maxlen=_BLOCKS)
        self._first = math.nan
        self.stalled = False
        """Whether there are enough losses, and no progress in them."""

    def push(self, loss: float | None) -> None:
        """Take in a loss; None and what is not finite are left out."""
        if loss is None or not math.isfinite(loss):
            return
        self._block.append(loss)
        if len(self._block) < _BLOCK:
            return
        block, self._block = self._block, []
        if math.isnan(self._first):
            self._first = median(block)
        self._blocks.append(block)
        if len(self._blocks) >= _LEAST_BLOCKS:
            self.stalled = self._is_stalled()

    @property
    def level(self) -> float:
        """Median of the latest block; NaN before there is one."""
        return median(self._blocks[-1]) if self._blocks else math.nan

    def is_small(self, share: float) -> bool:
        """Whether the loss has come down to that share of what the run began with."""
        return self._first > 0.0 and self.level <= share * self._first

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "block": list(self._block),
            "blocks": list(self._blocks),
            "first": None if math.isnan(self._first) else self._first,
            "stalled": self.stalled,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._block = list(state["block"])
        self._blocks = deque(state["blocks"], maxlen=_BLOCKS)
        self._first = math.nan if state["first"] is None else state["first"]
        self.stalled = state["stalled"]

    def _is_stalled(self) -> bool:
        blocks = self._blocks
        then, now = median(blocks[0] + blocks[1]), median(blocks[-2] + blocks[-1])
        sigma = noise(blocks[-2] + blocks[-1])
        error = _MEDIAN_ERROR * sigma / math.sqrt(_BLOCK)
        return then - now < max(_LEAST_GAIN * abs(then), 2.0 * error)
