"""Rules with medians: the references whose thresholds were set by hand, and sdcguard's."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

from benchmarks.rivals.base import UPSET, Rival, Window
from lossguard.detectors import Observation

_MAD = 1.4826
"""Standard deviations in a median absolute deviation of a Gaussian."""
_TAIL = 2.576
"""Standard deviations at the 99.5 % quantile of a Gaussian."""


class RobustResidual(Rival):
    """The log of the loss above the median of the last 32 that were not hits, by 6 times the noise
    and at least 5 %.

    The noise is the larger of two: the MAD of the last 32 differences, over sqrt(2); and the 99.5 %
    quantile of the last 512 residuals, as standard deviations. 32 hits in a row become the level.
    ``hits`` of the last 5 raise the alarm: one for a note, two for an action. Not finite is a hit.
    """

    def __init__(self, hits: int = 1, sigmas: float = 6.0, least: float = 0.05) -> None:
        self._needs = hits
        self._sigmas = sigmas
        self._least = math.log1p(least)
        self._level = Window(32)
        self._differences = Window(32)
        self._residuals = Window(512)
        self._recent: deque[bool] = deque(maxlen=5)
        self._excluded: list[float] = []
        self._last: float | None = None
        self._tail = 0.0
        self._rows = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None or loss <= 0:
            return None
        self._recent.append(self._is_hit(math.log(loss) if math.isfinite(loss) else math.nan))
        return UPSET if self._recent[-1] and sum(self._recent) >= self._needs else None

    def _is_hit(self, value: float) -> bool:
        if math.isnan(value):
            return True
        if self._level.full:
            residual = value - median(self._level.values.tolist())
            if residual > max(self._sigmas * self._noise(), self._least):
                self._exclude(value)
                return True
            self._residuals.push(residual)
        self._excluded.clear()
        self._accept(value)
        return False

    def _accept(self, value: float) -> None:
        self._level.push(value)
        if self._last is not None:
            self._differences.push(value - self._last)
        self._last = value

    def _exclude(self, value: float) -> None:
        self._excluded.append(value)
        if len(self._excluded) >= self._level.size:
            for excluded in self._excluded:
                self._level.push(excluded)
            self._last = self._excluded[-1]
            self._excluded.clear()

    def _noise(self) -> float:
        mad = _absolute_deviation(self._differences.values.tolist())
        # The quantile of 512 moves slowly: every 8th row is often enough.
        if len(self._residuals) >= 64 and self._rows % 8 == 0:
            self._tail = float(np.quantile(self._residuals.values, 0.995)) / _TAIL
        self._rows += 1
        return max(_MAD * mad / math.sqrt(2), self._tail)


class BlockDrift(Rival):
    """The median of 64 log-losses above the lowest of the last 64 such blocks, two blocks in a row.

    By 4 standard deviations of the differences between blocks, and at least 3 %.
    """

    def __init__(self, block: int = 64, sigmas: float = 4.0, least: float = 0.03) -> None:
        self._block = block
        self._sigmas = sigmas
        self._least = math.log1p(least)
        self._values: list[float] = []
        self._medians: deque[float] = deque(maxlen=64)
        self._above = 0

    def update(self, observation: Observation) -> str | None:
        loss = observation.values.get("loss")
        if loss is None or not math.isfinite(loss) or loss <= 0:
            return None
        self._values.append(math.log(loss))
        if len(self._values) < self._block:
            return None
        level = median(self._values)
        self._values.clear()
        rise = level - min(self._medians, default=level)
        above = len(self._medians) >= 4 and rise > max(self._sigmas * self._noise(), self._least)
        self._above = self._above + 1 if above else 0
        self._medians.append(level)
        return UPSET if self._above >= 2 else None

    def _noise(self) -> float:
        differences = [after - before for before, after in pairwise(self._medians)]
        return _MAD * _absolute_deviation(differences) / math.sqrt(2)


class Sdcguard(Rival):
    """sdcguard's ``observe()``, for the loss and the gradient norm.

    Not finite, or more than 8 robust deviations above the median of the last 200 (from 20 on).
    All finite values enter the window.
    """

    def __init__(self, threshold: float = 8.0, window: int = 200, needs: int = 20) -> None:
        self._threshold = threshold
        self._needs = needs
        self._windows = {"loss": Window(window), "grad_norm": Window(window)}

    def update(self, observation: Observation) -> str | None:
        flagged = [
            self._flags(window, observation.values[metric])
            for metric, window in self._windows.items()
            if metric in observation.values
        ]
        return UPSET if any(flagged) else None

    def _flags(self, window: Window, value: float) -> bool:
        if not math.isfinite(value):
            return True
        flagged = False
        if len(window) >= self._needs:
            past = window.values.tolist()
            level = median(past)
            spread = max(_MAD * _absolute_deviation(past), 1e-3 * abs(level), 1e-12)
            flagged = (value - level) / spread > self._threshold
        window.push(value)
        return flagged


def _absolute_deviation(values: Sequence[float]) -> float:
    """The median distance from the median."""
    middle = median(values)
    return median([abs(value - middle) for value in values])
