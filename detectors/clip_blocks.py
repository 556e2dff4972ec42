"""Gradient norms in blocks: how many were clipped, and a histogram of their sizes."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

_PER_OCTAVE = 16
"""Bins in a factor of two: a quantile is right to 4.4 %."""


@dataclass(slots=True)
class Block:
    """What is kept of ``size`` norms."""

    size: int = 0
    clipped: int = 0
    first_step: int = -1
    first_clipped: int = -1
    """Step of the first norm that was clipped, or -1."""
    bins: dict[int, int] = field(default_factory=dict)
    """Norms by round(16 log2(norm))."""

    def push(self, step: int, norm: float, max_norm: float) -> None:
        """Take in one norm, > 0."""
        if self.size == 0:
            self.first_step = step
        self.size += 1
        if norm > max_norm:
            self.clipped += 1
            if self.first_clipped < 0:
                self.first_clipped = step
        place = round(_PER_OCTAVE * math.log2(norm))
        self.bins[place] = self.bins.get(place, 0) + 1

    def state(self) -> list[Any]:
        """Plain data for ``from_state``."""
        bins = [x for pair in sorted(self.bins.items()) for x in pair]
        return [self.size, self.clipped, self.first_step, self.first_clipped, bins]

    @classmethod
    def from_state(cls, state: list[Any]) -> Block:
        """The block that ``state`` came from."""
        size, clipped, first_step, first_clipped, bins = state
        return cls(
            size, clipped, first_step, first_clipped, dict(zip(bins[::2], bins[1::2], strict=True))
        )


class ClipBlocks:
    """The last ``count`` full blocks of ``size`` norms, and the one being filled."""

    def __init__(self, size: int, count: int) -> None:
        self._size = size
        self._blocks: deque[Block] = deque(maxlen=count)
        self._filling = Block()

    def push(self, step: int, norm: float, max_norm: float) -> bool:
        """Take in a norm; whether it has filled a block."""
        self._filling.push(step, norm, max_norm)
        if self._filling.size < self._size:
            return False
        self._blocks.append(self._filling)
        self._filling = Block()
        return True

    def __len__(self) -> int:
        return len(self._blocks)

    def rate(self, count: int) -> float:
        """Share of clipped norms in the last ``count`` blocks."""
        blocks = list(self._blocks)[-count:]
        return sum(block.clipped for block in blocks) / sum(block.size for block in blocks)

    def last_rates(self, count: int) -> list[float]:
        """The shares in each of the last ``count`` blocks."""
        return [block.clipped / block.size for block in list(self._blocks)[-count:]]

    def since(self, share: float) -> int:
        """First clipped step of the unbroken row of last blocks that clipped over ``share``."""
        since = self._blocks[-1].first_clipped
        for block in reversed(self._blocks):
            if block.clipped <= share * block.size:
                break
            since = block.first_clipped
        return since

    def first_step(self) -> int:
        """The first step in the blocks."""
        return self._blocks[0].first_step

    def quantiles(self, *shares: float) -> list[float]:
        """Sizes that these shares of the norms in all blocks do not exceed, ascending shares."""
        merged: dict[int, int] = {}
        for block in self._blocks:
            for place, count in block.bins.items():
                merged[place] = merged.get(place, 0) + count
        total = sum(merged.values())
        found: list[float] = []
        seen = 0
        places = iter(sorted(merged))
        place = next(places)
        for share in shares:
            while seen + merged[place] < share * total:
                seen += merged[place]
                place = next(places)
            found.append(2.0 ** (place / _PER_OCTAVE))
        return found

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [[block.state() for block in self._blocks], self._filling.state()]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        blocks, filling = state
        self._blocks = deque(map(Block.from_state, blocks), maxlen=self._blocks.maxlen)
        self._filling = Block.from_state(filling)
