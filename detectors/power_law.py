"""How a loss curve goes on: a power law fitted to its earlier part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.1, 2.0, 5.0)
_SHIFTS = (0.0, 0.04, 0.2, 1.0)
"""Shift of the origin, in units of the fitted span."""
_GRID = np.array([(b, shift) for b in _EXPONENTS for shift in _SHIFTS])
_ROUNDS = 2
_HUBER = 1.5
_ALIKE = 8.0
"""Excess of the squared residuals, in units of their mean, up to which a fit is as good as the
best one: about two standard errors of four parameters together."""


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """c + a * (t / span + shift) ** -b."""

    floor: float
    scale: float
    exponent: float
    shift: float
    span: float

    def at(self, t: Floats) -> Floats:
        """The curve at times ``t`` [observations]."""
        x = (t / self.span + self.shift) ** -self.exponent
        return np.asarray(self.floor + self.scale * x)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The best power law, the one of those as good that is slowest, and how well they fit."""

    best: PowerLaw
    slowest: PowerLaw
    error: float
    """Root mean square of the residuals of the best, outliers weighed down [loss]."""

    def upper(self, t: Floats) -> Floats:
        """The highest that is to be expected at times ``t``, but for the noise."""
        return np.maximum(self.best.at(t), self.slowest.at(t))

    def state(self) -> list[float]:
        """Plain data for ``from_state``."""
        laws = (self.best, self.slowest)
        flat = [x for law in laws for x in (law.floor, law.scale, law.exponent, law.shift)]
        return [*flat, self.best.span, self.error]

    @classmethod
    def from_state(cls, state: Sequence[float]) -> Forecast:
        """The forecast that ``state`` came from."""
        best, slowest, (span, error) = state[:4], state[4:8], state[8:]
        laws = [PowerLaw(a, b, c, d, span) for a, b, c, d in (best, slowest)]
        return cls(laws[0], laws[1], error)


def forecast(t: Floats, y: Floats, horizon: float) -> Forecast:
    """Fit power laws to ``y`` at times ``t > 0`` (both shape (n,), n >= 5) and look ahead.

    L(t) = c + a (t + t0)^-b, the form of published scaling fits (Hestness et al. 2017; Kaplan et
    al. 2020), with a >= 0, and c >= 0 where all losses are positive. b and t0 stand on a grid of
    32; a and c are least squares under Huber weights (1.5 sigma, one re-weighting). Large b with a
    large shift is as good as an exponential. The floor of a curve is badly known from its early
    part, so that many of them fit alike: ``slowest`` is the one that is highest at ``horizon``.
    Some 0.5 ms for n = 64.
    """
    span = float(t[-1])
    x = (t[None, :] / span + _GRID[:, 1:]) ** -_GRID[:, :1]
    positive = bool(np.all(y > 0.0))
    weights = np.ones_like(x)
    for _ in range(_ROUNDS):
        floor, scale = _least_squares(x, y, weights, positive)
        residuals = y[None, :] - floor[:, None] - scale[:, None] * x
        sigma = 1.4826 * np.median(np.abs(residuals), axis=1, keepdims=True) + 1e-300
        weights = np.minimum(1.0, _HUBER * sigma / (np.abs(residuals) + 1e-300))
    # One common measure for all: residuals clipped at what the best takes for an outlier.
    best = int(np.argmin(sigma))
    limit = 4.0 * float(sigma[best, 0])
    squares = np.square(np.minimum(np.abs(residuals), limit)).mean(axis=1)
    best = int(np.argmin(squares))
    alike = squares <= squares[best] * (1.0 + _ALIKE / max(len(y) - 4, 1))
    ahead = floor + scale * (horizon / span + _GRID[:, 1]) ** -_GRID[:, 0]
    slowest = int(np.argmax(np.where(alike, ahead, -np.inf)))
    laws = [
        PowerLaw(float(floor[i]), float(scale[i]), float(_GRID[i, 0]), float(_GRID[i, 1]), span)
        for i in (best, slowest)
    ]
    return Forecast(laws[0], laws[1], float(np.sqrt(squares[best])))


def _least_squares(x: Floats, y: Floats, weights: Floats, positive: bool) -> tuple[Floats, Floats]:
    """Floor and scale for each row of ``x`` (shape (models, n)), within their bounds."""
    total = weights.sum(axis=1)
    mean_x = (weights * x).sum(axis=1) / total
    mean_y = (weights * y).sum(axis=1) / total
    spread = (weights * np.square(x - mean_x[:, None])).sum(axis=1)
    joint = (weights * (x - mean_x[:, None]) * (y[None, :] - mean_y[:, None])).sum(axis=1)
    scale = np.maximum(joint / np.maximum(spread, 1e-300), 0.0)
    floor = mean_y - scale * mean_x
    if positive:
        through_zero = (weights * x * y).sum(axis=1) / (weights * x * x).sum(axis=1)
        scale = np.where(floor < 0.0, through_zero, scale)
        floor = np.maximum(floor, 0.0)
    return floor, scale
