"""The history of every layer in bounded memory: block medians, the latest and some of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossguard.detectors.packed import packed, unpacked

Floats = npt.NDArray[np.float32]

LATEST = 8
"""Blocks that are looked at without a gap."""
_SPARE = 8
"""More of them, so that a rewind by 500 steps loses nothing."""
_EARLIER = 16
"""Blocks, evenly spread, that stand for all that came before."""
_FIRST_SPAN = 8
_LAST_SPAN = 64
"""Observations in the first blocks and in the later ones."""
_LOOKS = 8
"""Looks at the values in a block, at most."""
_LEAST_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Block:
    """Some observations in a row."""

    index: int
    first_step: int
    last_step: int
    tick: int
    """Observations of the run up to its last one, measured or not."""
    heights: Floats
    """Log of the median of each layer, shape (layers,); NaN where there is none."""


class LayerBlocks:
    """Log medians of each layer over blocks of 8 observations at first and of 64 later on.

    ``tick`` is called at every observation, ``push`` where the family was measured. A block holds
    at most eight looks, evenly spread, and at least three; a layer with usable (finite, positive)
    values in fewer than half of them has no height. The latest 8 blocks are kept and 8 to 16 that
    are evenly spread over the rest, whatever the length of the run: about 130 bytes a layer.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.ticks = 0
        """Observations of the run so far."""
        self._size = 0
        self._start: tuple[int, int] | None = None
        self._looked_at = 0
        self._looks: list[Floats] = []

    @property
    def count(self) -> int:
        """Blocks so far, those no longer kept included."""
        return self.blocks[-1].index + 1 if self.blocks else 0

    def tick(self) -> None:
        """Take notice of an observation."""
        self.ticks += 1

    def is_due(self) -> bool:
        """Whether ``push`` would look at the current observation."""
        return self._start is None or self.ticks - self._looked_at >= self._span() // _LOOKS

    def push(self, step: int, values: Floats, missing: npt.NDArray[np.bool_]) -> bool:
        """Take in the values of the current observation; True when they complete a block."""
        if len(values) != self._size:
            self._restart(len(values))
        if not self.is_due():
            return False
        if self._start is None:
            self._start = (step, self.ticks)
        self._looked_at = self.ticks
        usable = (values > 0.0) & np.isfinite(values) & ~missing
        self._looks.append(np.where(usable, values, np.nan).astype(np.float32, copy=False))
        span = self._span()
        passed = self.ticks - self._start[1]
        if passed < span - span // _LOOKS or len(self._looks) < _LEAST_LOOKS:
            return False
        self._close(step)
        return True

    def known(self) -> list[Block]:
        """The blocks to judge by, oldest first: some earlier ones, then the latest eight."""
        count = self.count
        gap = _gap(count)
        return [b for b in self.blocks if b.index >= count - LATEST or b.index % gap == 0]

    def rewind(self, step: int) -> None:
        """Forget the blocks that reach beyond ``step``, and the one that is not complete."""
        while self.blocks and self.blocks[-1].last_step > step:
            self.blocks.pop()
        self.ticks = self.blocks[-1].tick if self.blocks else 0
        self._start = None
        self._looks = []

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "ticks": self.ticks,
            "size": self._size,
            "start": None if self._start is None else list(self._start),
            "looked_at": self._looked_at,
            "looks": [packed(look) for look in self._looks],
            "blocks": [
                [b.index, b.first_step, b.last_step, b.tick, packed(b.heights)] for b in self.blocks
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self.ticks = state["ticks"]
        self._size = state["size"]
        start = state["start"]
        self._start = None if start is None else (start[0], start[1])
        self._looked_at = state["looked_at"]
        self._looks = [unpacked(look) for look in state["looks"]]
        self.blocks = [
            Block(index, first, last, tick, unpacked(heights))
            for index, first, last, tick, heights in state["blocks"]
        ]

    def _span(self) -> int:
        """Observations of the current block."""
        return min(_LAST_SPAN, _FIRST_SPAN * (1 + self.count // 4))

    def _restart(self, size: int) -> None:
        """Begin anew: the model has other layers now."""
        self.blocks = []
        self._size = size
        self._start = None
        self._looks = []

    def _close(self, step: int) -> None:
        assert self._start is not None
        looks = np.sort(np.stack(self._looks), axis=0)
        num_usable = np.count_nonzero(~np.isnan(looks), axis=0)
        middle = np.maximum(num_usable - 1, 0) // 2
        medians = looks[middle, np.arange(self._size)]
        enough = 2 * num_usable >= len(looks)
        heights = np.log(np.where(enough, medians, np.nan))
        count = self.count
        self.blocks.append(Block(count, self._start[0], step, self.ticks, heights))
        gap = _gap(max(count + 1 - _SPARE, 0))
        newest = count + 1 - LATEST - _SPARE
        self.blocks = [b for b in self.blocks if b.index >= newest or b.index % gap == 0]
        self._start = None
        self._looks = []


def stacked(blocks: Sequence[Block]) -> Floats:
    """Their heights, shape (blocks, layers)."""
    return np.stack([block.heights for block in blocks])


def _gap(count: int) -> int:
    """The largest power of two that leaves at least half of ``_EARLIER`` multiples below count."""
    gap = 1
    while count // gap >= _EARLIER:
        gap *= 2
    return gap
