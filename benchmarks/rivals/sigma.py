"""Rules that count standard deviations from a mean."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.rivals.base import UPSET, Rival, Window
from lossguard.detectors import Observation


class OlmoSkipStep(Rival):
    """OLMo-core's ``skip_step_optimizer.py``: the loss or the gradient norm is more than 6 standard
    deviations from the mean of the 128 before it, from 64 on.

    Flagged values enter the window, and NaN or Inf make the deviation NaN, which is not ``<= 6``:
    one infinite value flags the next 128 healthy ones too. One spike widens the threshold.
    """

    def __init__(self, window: int = 128, sigmas: float = 6.0) -> None:
        self._windows = {"loss": Window(window), "grad_norm": Window(window)}
        self._needs = max(20, window // 2)
        self._sigmas = sigmas

    def update(self, observation: Observation) -> str | None:
        flagged = [
            self._flags(self._windows[metric], observation.values[metric])
            for metric in self._windows
            if metric in observation.values
        ]
        return UPSET if any(flagged) else None

    def _flags(self, window: Window, value: float) -> bool:
        flagged = False
        if len(window) + 1 >= self._needs:
            with np.errstate(all="ignore"):
                past = window.values
                deviation = abs(value - past.mean()) / past.std(ddof=1)
            flagged = not deviation <= self._sigmas
        window.push(value)
        return flagged


class LlmcOutlier(Rival):
    """llm.c's ``outlier_detector.h``: z-score within the last 128 values, the new one included, so
    that z is at most 11.2. The thresholds for loss and gradient norm are off by default; 3 here.

    Mean and variance are running sums: one NaN poisons them for good.
    """

    def __init__(self, window: int = 128, threshold: float = 3.0) -> None:
        self._watches = {"loss": _RunningZ(window), "grad_norm": _RunningZ(window)}
        self._threshold = threshold

    def update(self, observation: Observation) -> str | None:
        scores = [
            watch.score(observation.values[metric])
            for metric, watch in self._watches.items()
            if metric in observation.values
        ]
        return UPSET if any(score > self._threshold for score in scores) else None


class _RunningZ:
    """z-scores from running sums over a window."""

    def __init__(self, size: int) -> None:
        self._window = Window(size)
        self._sum = 0.0
        self._sum_of_squares = 0.0

    def score(self, value: float) -> float:
        """Of the value within the window that it ends; NaN until the window has been full."""
        ready = self._window.full
        if ready:
            oldest = float(self._window.values[0])
            self._sum -= oldest
            self._sum_of_squares -= oldest * oldest
        self._window.push(value)
        self._sum += value
        self._sum_of_squares += value * value
        if not ready:
            return math.nan
        mean = self._sum / self._window.size
        variance = self._sum_of_squares / self._window.size - mean * mean
        # sqrt of a negative rounding error is NaN in C, and NaN is above no threshold.
        return (value - mean) / math.sqrt(variance) if variance > 0 else math.nan


class ZClip(Rival):
    """ZClip's ``zclip.py``: z of the gradient norm above 2.5 against an exponential mean and
    variance (decay 0.97, first 25 norms); what is clipped enters as its clipped value.

    Logs without a gradient norm give it the loss. One NaN makes mean and variance NaN for good.
    """

    def __init__(self, alpha: float = 0.97, threshold: float = 2.5, warmup: int = 25) -> None:
        self._alpha = alpha
        self._threshold = threshold
        self._warmup = warmup
        self._first: list[float] = []
        self._metric = "loss"
        self.mean = math.nan
        self.variance = math.nan

    def update(self, observation: Observation) -> str | None:
        if self._metric == "loss" and "grad_norm" in observation.values:
            self._metric, self._first = "grad_norm", []
        value = observation.values.get(self._metric)
        if value is None:
            return None
        if len(self._first) < self._warmup:
            self._first.append(value)
            if len(self._first) == self._warmup:
                with np.errstate(all="ignore"):
                    self.mean, self.variance = (
                        float(np.mean(self._first)),
                        float(np.var(self._first)),
                    )
            return None
        deviation = math.sqrt(self.variance)
        z = (value - self.mean) / (deviation + 1e-6)
        spike = z > self._threshold
        if spike:
            value = self.mean + self._threshold * deviation / (z / self._threshold)
        self.mean = self._alpha * self.mean + (1 - self._alpha) * value
        self.variance = self._alpha * self.variance + (1 - self._alpha) * (value - self.mean) ** 2
        return UPSET if spike else None
