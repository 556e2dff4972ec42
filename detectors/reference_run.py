"""The curve of a reference run, to be compared with at the same steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lossguard.detectors.streaming import median, noise

_SMOOTH = 4
"""Points on either side, as far as there are as many on the other, of which a median is taken."""
_FEWEST = 12
"""Blocks before the first verdict."""
_IN_A_ROW = 3
_LATE = 8
_SHARE = 0.8
_SIGMAS = 3.0
_OF_MEDIANS = 1.2533
"""Standard error of a median, in those of a mean."""
_STEEP = 0.1
_SOONER = 0.75


class ReferenceRun:
    """Losses of another run by step, smoothed by a running median of nine points."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        losses = [loss for _, loss in points]
        smooth = []
        for i in range(len(losses)):
            reach = min(i, len(losses) - 1 - i, _SMOOTH)
            smooth.append(median(losses[i - reach : i + reach + 1]))
        self._steps = np.array([step for step, _ in points], dtype=np.float64)
        self._losses = np.array(smooth, dtype=np.float64)
        self._first = smooth[0] if smooth else 0.0

    def at(self, step: int) -> float | None:
        """Its loss at a step; None before its first and after its last."""
        steps = self._steps
        if not len(steps) or not steps[0] <= step <= steps[-1]:
            return None
        return float(np.interp(step, steps, self._losses))

    def behind_since(
        self, steps: Sequence[int], medians: Sequence[float], behind: float
    ) -> int | None:
        """The first of the blocks at the end of a curve that are behind the reference.

        ``steps`` are the last steps of the blocks, ``medians`` their levels. Of the last eighth of
        them, and at least three, four of five are to be above the reference; their median by more
        than ``behind`` of how far the reference had come down, and by three standard errors; and
        the reference had come as far in three quarters of the steps. Not in its first tenth,
        where a curve falls so steeply that its seed decides. The reference is taken at the
        beginning of a block, which is in the run's favour.
        """
        late = max(_IN_A_ROW, len(medians) // _LATE)
        if len(medians) < _FEWEST or not self._has_settled(steps[-late]):
            return None
        above = [
            math.nan if there is None else level - there
            for level, there in zip(medians[1:], map(self.at, steps[:-1]), strict=True)
        ]
        there = self.at(steps[-2])
        if there is None or there >= self._first or not self._took_longer(steps, medians, late):
            return None
        height = float(np.median(above[-late:]))
        error = _OF_MEDIANS * noise(list(medians[-16:])) / math.sqrt(late)
        higher = sum(one > 0.0 for one in above[-late:])
        enough = height > behind * (self._first - there) and height > _SIGMAS * error
        if not (enough and higher >= _SHARE * late):
            return None
        first = len(above) - late
        while first > 0 and median(above[max(0, first - late) : first]) > 0.5 * height:
            first -= 1
        return first + 1

    def _has_settled(self, step: int) -> bool:
        first, last = self._steps[0], self._steps[-1]
        return bool(step >= first + _STEEP * (last - first))

    def _took_longer(self, steps: Sequence[int], medians: Sequence[float], late: int) -> bool:
        """Whether the reference was as low at three quarters of the steps."""
        earlier = self.at(int(_SOONER * steps[-late]))
        return earlier is not None and median(list(medians[-late:])) > earlier
