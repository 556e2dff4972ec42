"""Rules that look at the gradient norm alone."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from benchmarks.rivals.base import UPSET, Rival, Window, not_finite
from lossguard.detectors import Observation


class Rlwatch(Rival):
    """rlwatch's ``detectors.py``: NaN or Inf loss; z of the gradient norm above 3 against the mean
    and deviation of the first 100, which stay frozen (until then: of those so far, from 20 on).
    """

    def __init__(self, sigmas: float = 3.0, window: int = 100, warmup: int = 20) -> None:
        self._sigmas = sigmas
        self._warmup = warmup
        self._norms = Window(window)
        self._frozen: tuple[float, float] | None = None
        self._steps = 0

    def update(self, observation: Observation) -> str | None:
        upset = not math.isfinite(observation.values.get("loss", 0.0))
        norm = observation.values.get("grad_norm")
        if norm is not None and self._flags(norm):
            upset = True
        return UPSET if upset else None

    def _flags(self, norm: float) -> bool:
        self._steps += 1
        self._norms.push(norm)
        if self._steps < self._warmup:
            return False
        with np.errstate(all="ignore"):
            values = self._norms.values
            if self._frozen is None and self._norms.full:
                self._frozen = float(values.mean()), float(values.std())
            mean, deviation = self._frozen or (float(values[:-1].mean()), float(values[:-1].std()))
        return (norm - mean) / max(deviation, 1e-8) > self._sigmas


class EmaRatio(Rival):
    """Not finite, or a gradient norm above a multiple of its exponential mean."""

    def update(self, observation: Observation) -> str | None:
        norm = observation.values.get("grad_norm")
        if not_finite(observation):
            return UPSET
        if norm is None:
            return None
        return UPSET if self._flags(norm) else None

    @abstractmethod
    def _flags(self, norm: float) -> bool:
        """Whether the norm is too large, and take it in."""


class AxlearnSkip(EmaRatio):
    """axlearn's ``skip_and_clip_by_global_norm``: finite gradients whose norm is below 20 times its
    bias-corrected mean (decay 0.99, which users must choose); flagged norms leave the mean alone.
    """

    def __init__(self, multiple: float = 20.0, decay: float = 0.99) -> None:
        self._multiple = multiple
        self._decay = decay
        self._count = 0
        self.mean = 1.0

    def _flags(self, norm: float) -> bool:
        if not norm < self._multiple * self.mean:
            return True
        decay = (
            self._decay * (1 - self._decay**self._count) / (1 - self._decay ** (self._count + 1))
        )
        self.mean = decay * self.mean + (1 - decay) * norm
        self._count += 1
        return False


class StabilityGuard(EmaRatio):
    """stabilityguard's ``spike_detector.py``, for the total norm: above 10 times its mean (step
    0.01), which the norm enters first; after 10 steps, and from 0.01 on.
    """

    def __init__(self, threshold: float = 10.0, alpha: float = 0.01, warmup: int = 10) -> None:
        self._threshold = threshold
        self._alpha = alpha
        self._warmup = warmup
        self._steps = 0
        self.mean: float | None = None

    def _flags(self, norm: float) -> bool:
        self._steps += 1
        self.mean = norm if self.mean is None else self.mean + self._alpha * (norm - self.mean)
        if self._steps <= self._warmup or norm < 0.01 or self.mean < 1e-8:
            return False
        return norm / self.mean > self._threshold
