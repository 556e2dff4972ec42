"""A steady trend in block maxima, and how far it reaches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from lossguard.detectors.block_maxima import BlockMaxima
from lossguard.detectors.steady_growth import Growth, steady_growth
from lossguard.detectors.streaming import median

WINDOW = 20
"""Blocks that a trend is taken from."""
KEPT = 32
"""Blocks that its beginning is looked for in."""
_FLAT = 0.05
"""Share of the growth below which a block is still flat."""


@dataclass(frozen=True, slots=True)
class MemoryTrend:
    """Steady growth of a metric over ``WINDOW`` blocks of one scale."""

    growth: Growth
    per_step: float
    """Of late [unit of the metric]; 0 where the steps do not tell (a resume in between)."""
    onset: int
    """First step of the block in which it began, as far as the blocks go back."""
    is_new: bool
    """Whether it leads higher than all before it. Saw teeth do so only once."""


def trends(maxima: BlockMaxima, scales: int, least: float) -> Iterator[MemoryTrend]:
    """Those on the first ``scales`` scales that are at least ``least`` of the level."""
    for scale in range(scales):
        values = maxima.maxima(scale, WINDOW)
        if len(values) < WINDOW:
            continue
        growth = steady_growth(values)
        if growth is None or growth.within < least * median(values):
            continue
        steps = maxima.steps(scale, WINDOW)
        between = (steps[-1] - steps[0]) / (WINDOW - 1)
        half = WINDOW - WINDOW // 2
        yield MemoryTrend(
            growth=growth,
            per_step=growth.second_half / half / between if between > 0.0 else 0.0,
            onset=_onset(maxima.steps(scale, KEPT), maxima.maxima(scale, KEPT)),
            is_new=values[-1] >= (1.0 + least) * maxima.highest_before(steps[0]),
        )


def leap(maxima: BlockMaxima, blocks: int) -> float:
    """Growth over the last ``blocks`` blocks, of which each is higher than the one before; or 0."""
    last = maxima.maxima(0, blocks + 1)
    rising = len(last) > blocks and all(b > a for a, b in itertools.pairwise(last))
    return last[-1] - last[0] if rising else 0.0


def _onset(steps: list[int], values: list[float]) -> int:
    """First step of the first block after the last flat one."""
    lowest = min(values)
    flat = lowest + _FLAT * (values[-1] - lowest)
    last_flat = max(i for i, value in enumerate(values) if value <= flat)
    return steps[min(last_flat + 1, len(steps) - 1)]
