"""The curve of a reference run, to be compared with at the same steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lossguard.detectors.streaming import median, noise

_SMOOTH = 4
"""Points on either side, as far as there are as many on the other, of which a median is taken."""
_FEWEST = 12
"""Blocks before the first verdict."""
_IN_A_ROW = 3
_SIGMAS = 3.0


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
        """The first of the blocks at the end of a curve that are all behind the reference.

        ``steps`` are the last steps of the blocks, ``medians`` their levels. Each of the last
        three is to be above by more than ``behind`` of how far the reference had come down, and
        by three times the noise of the blocks; the ones before, by half of that share. The
        reference is taken at the beginning of a block, which is in the run's favour.
        """
        if len(medians) < _FEWEST:
            return None
        least = _SIGMAS * noise(list(medians[-16:]))
        first = len(medians)
        while first > 1:
            there = self.at(steps[first - 2])
            if there is None or there >= self._first:
                break
            above = medians[first - 1] - there
            late = len(medians) - first < _IN_A_ROW
            share = behind if late else 0.5 * behind
            if above <= share * (self._first - there) or (late and above <= least):
                break
            first -= 1
        return first if len(medians) - first >= _IN_A_ROW else None
