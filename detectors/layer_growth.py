"""A layer that has grown far beyond its settled level, and grows still."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lossguard.detectors.layer_blocks import LATEST, Block, Floats, stacked

_NOW = 3
"""Latest blocks whose middle is the present."""
_LEAST_BLOCKS = 8
_CANDIDATES = 8
"""Layers that rose most, which are examined."""
_UNBROKEN = 0.85
"""Rise in the second half of the growth over that in the first: 1 where it is linear in time,
below 0.65 for a square root, the way of weights that walk at random."""
_STEADY = 0.5
"""Least Kendall's tau of the blocks that rise."""
_LEAST_RISING = 4
"""Blocks from the last settled one on."""
_NOT_YET = 0.1
"""Share of the rise up to which a block is taken for one from before it."""


@dataclass(frozen=True, slots=True)
class LayerRise:
    """A layer that rose."""

    index: int
    before: float
    after: float
    since: int
    """First step that it may have begun at."""
    jump: bool
    """Whether it rose at once, and stays up."""

    @property
    def times(self) -> float:
        """How many times it rose."""
        return self.after / self.before


def find_growth(
    blocks: Sequence[Block], settled_tick: int, factor: float, eligible: npt.NDArray[np.bool_]
) -> LayerRise | None:
    """The layer that grew most, by ``factor`` or more, and whose growth is unbroken.

    The settled level is the lowest block after ``settled_tick``, the present the middle of the
    latest three. Growth is unbroken when, of the time since the last block below a tenth of the
    rise, the second half brought at least 0.85 of what the first half did, and steady when
    Kendall's tau of the blocks since then with their order is 0.5 or more (Mann-Kendall).
    """
    known = [block for block in blocks if block.tick >= settled_tick]
    if len(known) < _LEAST_BLOCKS:
        return None
    heights = stacked(known)
    now = _middle(heights[-_NOW:])
    base = np.fmin.reduce(heights[:-_NOW], axis=0)
    rise = np.where(eligible & ~np.isnan(now) & ~np.isnan(base), now - base, -np.inf)
    order = np.argsort(-rise, kind="stable")[:_CANDIDATES]
    for index in order.tolist():
        if rise[index] < math.log(factor):
            return None
        if _grows(known, heights[:, index]):
            before, after = float(base[index]), float(now[index])
            since = _since(known, heights[:, index], before + _NOT_YET * (after - before))
            return LayerRise(index, math.exp(before), math.exp(after), since, False)
    return None


def find_jump(
    blocks: Sequence[Block], settled_tick: int, factor: float, eligible: npt.NDArray[np.bool_]
) -> LayerRise | None:
    """The layer that jumped most, by ``factor`` or more: the lowest of the latest three blocks
    over the highest of the five before them."""
    latest = [block for block in blocks[-LATEST:] if block.tick >= settled_tick]
    if len(latest) < LATEST:
        return None
    heights = stacked(latest)
    after = heights[-_NOW:].min(axis=0)
    before = heights[:-_NOW].max(axis=0)
    rise = np.where(eligible & ~np.isnan(after - before), after - before, -np.inf)
    index = int(rise.argmax())
    if rise[index] < math.log(factor):
        return None
    since = latest[-_NOW - 1].first_step
    return LayerRise(
        index, math.exp(float(before[index])), math.exp(float(after[index])), since, True
    )


def _grows(blocks: Sequence[Block], heights: Floats) -> bool:
    """Whether the layer has grown steadily since it left its lowest level, no slower of late."""
    kept = [(block.tick, float(y)) for block, y in zip(blocks, heights, strict=True) if y == y]
    levels = [math.exp(min(y, 700.0)) for _, y in kept]
    now, base = sorted(levels[-_NOW:])[1], min(levels[:-_NOW])
    start = max(i for i, level in enumerate(levels) if level <= base + _NOT_YET * (now - base))
    rising, ticks = levels[start:], [tick for tick, _ in kept[start:]]
    if len(rising) < _LEAST_RISING:
        return False
    pairs = list(itertools.combinations(rising, 2))
    if sum((b > a) - (b < a) for a, b in pairs) < _STEADY * len(pairs):
        return False
    half = _level_at(ticks, rising, 0.5 * (ticks[0] + ticks[-2]))
    return now - half >= _UNBROKEN * (half - rising[0])


def _level_at(ticks: Sequence[int], levels: Sequence[float], tick: float) -> float:
    """The level at that time, on the line between the two blocks around it."""
    after = next(i for i, t in enumerate(ticks) if t >= tick)
    if after == 0:
        return levels[0]
    share = (tick - ticks[after - 1]) / (ticks[after] - ticks[after - 1])
    return levels[after - 1] + share * (levels[after] - levels[after - 1])


def _since(blocks: Sequence[Block], heights: Floats, low: float) -> int:
    """The first step of the last block that was not above ``low``."""
    return max(
        block.first_step for block, y in zip(blocks, heights.tolist(), strict=True) if y <= low
    )


def _middle(rows: Floats) -> Floats:
    """The median of three rows; NaN where one is."""
    a, b, c = rows
    middle: Floats = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return middle


def figures_of(rise: LayerRise | None) -> list[float | None]:
    """Five figures for a journal; an index of -1 where nothing rose."""
    if rise is None:
        return [-1.0, None, None, None, None]
    return [rise.index, rise.before, rise.after, rise.since, float(rise.jump)]


def rise_of(figures: Sequence[float | None]) -> LayerRise | None:
    """What ``figures_of`` was given."""
    index, before, after, since, jump = figures
    if index is None or before is None or after is None or since is None:
        return None
    return LayerRise(int(index), before, after, int(since), bool(jump))
