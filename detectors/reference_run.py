"""The curve of a reference run, to be compared with at the same steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lossguard.detectors.streaming import median

_SMOOTH = 4
"""Points on either side of which a median is taken."""


class ReferenceRun:
    """Losses of another run by step, smoothed by a running median of nine points."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        losses = [loss for _, loss in points]
        smooth = [median(losses[max(0, i - _SMOOTH) : i + _SMOOTH + 1]) for i in range(len(losses))]
        self._steps = np.array([step for step, _ in points], dtype=np.float64)
        self._losses = np.array(smooth, dtype=np.float64)
        self._first = max(losses[0], smooth[0]) if losses else 0.0

    def at(self, step: int) -> float | None:
        """Its loss at a step; None before its first and after its last."""
        steps = self._steps
        if not len(steps) or not steps[0] <= step <= steps[-1]:
            return None
        return float(np.interp(step, steps, self._losses))

    def behind(self, step: int, loss: float) -> float:
        """Distance of a loss above it, relative to how far it had come down; 0 where unknown."""
        there = self.at(step)
        if there is None or there >= self._first:
            return 0.0
        return (loss - there) / (self._first - there)
