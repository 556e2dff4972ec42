"""Whether a curve stands still: an upper bound on its progress, from its own noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lossguard.detectors.run_curve import RunCurve
from lossguard.detectors.streaming import median, noise

_MEDIAN_ERROR = 1.2533
"""Standard error of a median in units of sigma / sqrt(n), for normal noise."""
_SURE = 2.5
"""Standard errors that are added to a fall before it is called too small."""
_FIRST_DROP = 0.1
"""Fall from the very first losses, relative to them, that is no learning: an untrained model
that is wrong with confidence comes down to guessing within a few steps."""
_GUESSING: tuple[tuple[int, float], ...] = tuple(
    (classes, math.log(classes)) for classes in (*range(2, 21), 100, 1000)
)
_UNIFORM = 0.002


@dataclass(frozen=True, slots=True)
class Flat:
    """A stretch of a curve without progress."""

    since: int
    """Its first step."""
    before: float
    """The level at its beginning [loss]."""
    level: float
    """The level at its end [loss]."""


def uniform_classes(loss: float) -> int | None:
    """The number of classes of which a model that guesses them alike has this cross-entropy.

    ln 2 = 0.693, ln 10 = 2.303 and so on, within 0.2 %; up to 20 classes, 100 and 1000.
    """
    for classes, guessing in _GUESSING:
        if abs(loss - guessing) <= _UNIFORM * guessing:
            return classes
    return None


def fall(values: list[float], first: int, last: int) -> tuple[float, float, float]:
    """Level of the ``first`` values, level of the ``last``, standard error of their difference."""
    error = _MEDIAN_ERROR * noise(values) * math.sqrt(1.0 / first + 1.0 / last)
    return median(values[:first]), median(values[-last:]), error


def learnt_nothing(curve: RunCurve, first: float, min_progress: float) -> Flat | None:
    """The whole curve, if it surely fell by less than ``min_progress`` of where it began.

    Surely: level of its first eighth - level of its last quarter + 2.5 standard errors. ``first``
    is the level of the very first losses. None for losses around zero, which have no size of
    their own, for curves that rise, and for those that had once been lower.
    """
    blocks = curve.medians
    if len(blocks) < 10 or min(blocks) <= 0.0:
        return None
    start, now, error = fall(blocks, max(2, len(blocks) // 8), max(3, len(blocks) // 4))
    if start - now + _SURE * error > min_progress * start:
        return None
    if now - start > _FIRST_DROP * start:
        return None
    if lowest(blocks) < (1.0 - 2.0 * min_progress) * start - 4.0 * noise(blocks):
        return None
    if first - now > _FIRST_DROP * first and uniform_classes(now) is None:
        return None
    return Flat(curve.first_step, start, now)


def flat_half(curve: RunCurve, min_progress: float) -> Flat | None:
    """The latter half of the curve, if it surely fell by less than ``min_progress`` of its level.

    Surely: level of its first third - level of its last third + 2.5 standard errors. None for
    one that rises, that is not one level, or that stands above what the curve had reached.
    """
    blocks = curve.medians
    half = len(blocks) // 2
    if half < 10:
        return None
    values = blocks[half:]
    start, now, error = fall(values, len(values) // 3, len(values) // 3)
    bound = min_progress * abs(start)
    if start - now + _SURE * error > bound or now - start > 2.0 * bound:
        return None
    slack = 2.0 * bound + 4.0 * noise(values)
    tenth = len(values) // 10
    ordered = sorted(values)
    if ordered[-1 - tenth] - ordered[tenth] > slack or now - lowest(blocks) > slack:
        return None
    return Flat(curve.steps[half - 1], start, now)


def lowest(blocks: list[float]) -> float:
    """The smallest median of three neighbours; one low block alone does not count."""
    if len(blocks) < 3:
        return min(blocks)
    return min(
        sorted((first, second, third))[1]
        for first, second, third in zip(blocks, blocks[1:], blocks[2:], strict=False)
    )
