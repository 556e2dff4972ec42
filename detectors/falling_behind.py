"""Whether the end of a curve is where its earlier part foretold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lossguard.detectors.change_point import onset_index
from lossguard.detectors.flatness import lowest
from lossguard.detectors.power_law import Floats, Forecast, forecast
from lossguard.detectors.streaming import noise

_FEWEST = 8
"""Blocks that a power law is fitted to, at least."""
_FITS = 2.0
"""Residuals, in units of the noise, up to which it fits."""
_STEP = 8.0
"""Fall within two blocks, in units of the noise and of half those around it, after which a curve
begins anew."""
_LAST = 8
"""The end is one part in that many of the curve, and at least three blocks."""
_MOST = 0.8
"""Share of the blocks at the end that are above the forecast."""
_RISE = 0.1
"""Rise above the lowest level, relative to it, from which on it is not slowness."""
_RIGHT = 0.5
"""Progress made, in units of the progress foretold, by which a forecast was right enough."""
_MEDIAN_ERROR = 1.2533


@dataclass(frozen=True, slots=True)
class BehindRule:
    """What ``SlowConvergenceConfig`` says about ``falling_behind``."""

    fitted: float
    sigmas: float
    shortfall: float
    material: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a curve's earlier part foretold of its end, and what came."""

    forecast: Forecast
    now: float
    """Level of the end [loss]."""
    expected: float
    """The same by the best power law [loss]."""
    fits: bool
    """Whether the power law fits; if not, the rest says nothing."""
    behind: bool
    """Whether the end is clearly above the forecast."""
    right: bool
    """Whether the forecast was right, or not better than what came."""
    first: int
    """The block at which the end left the forecast."""


def times(count: int, size: int) -> Floats:
    """The middle of each of ``count`` blocks of ``size`` values [values since the start]."""
    return (np.arange(count, dtype=np.float64) + 0.5) * size


def falling_behind(
    medians: Sequence[float], size: int, usable: npt.NDArray[np.bool_], rule: BehindRule
) -> Outlook | None:
    """Fit the first ``rule.fitted`` of a curve and compare its end with the forecast.

    ``medians`` are the levels of blocks of ``size`` values; those not ``usable`` are left out.
    With h the median distance of the end above the slowest power law that fits as well, and e
    the standard error of that median (from the noise of the blocks or the error of the fit,
    whichever is larger), the end is behind when h exceeds ``sigmas`` * e and ``material`` of the
    level, four blocks of five lie above, ``shortfall`` of the progress foretold since the end of
    the fit did not come, and the loss has not risen by a tenth. A fit that is off
    by more than twice the noise says nothing. None where fewer than 8 blocks are left to fit.
    Some 0.5 ms.
    """
    y, t = np.asarray(medians, dtype=np.float64), times(len(medians), size)
    split = int(rule.fitted * len(y))
    fitted = _fit(t, y, usable, split)
    if fitted is None:
        return None
    law, flicker = fitted
    end = slice(-max(3, len(y) // _LAST), None)
    above = np.where(usable, y - law.upper(t), 0.0)
    sigma = max(flicker, noise(list(medians[split:])), law.error)
    error = _MEDIAN_ERROR * sigma / math.sqrt(len(above[end]))
    height, now = float(np.median(above[end])), float(np.median(y[end]))
    start, expected = (float(np.median(law.best.at(t[part]))) for part in (_at(split - 1), end))
    foretold, came = start - expected, start - now
    fits = law.error <= _FITS * flicker
    behind = (
        fits
        and height > max(rule.sigmas * error, rule.material * abs(now))
        and float((above[end] > 0.0).mean()) >= _MOST
        and foretold - came > rule.shortfall * foretold
        and now <= lowest(list(medians)) + _RISE * abs(now)
    )
    return Outlook(
        forecast=law,
        now=now,
        expected=expected,
        fits=fits,
        behind=behind,
        right=came >= _RIGHT * foretold or abs(came - foretold) < rule.sigmas * error,
        first=split
        + onset_index([float(x) for x in above[split:]], 0.0, sigma, max(height, sigma)),
    )


def _fit(
    t: Floats, y: Floats, usable: npt.NDArray[np.bool_], split: int
) -> tuple[Forecast, float] | None:
    """The forecast from the blocks before ``split``, and their noise."""
    chosen = np.flatnonzero(usable[:split])
    chosen = chosen[chosen >= max(1, split // 10)]
    chosen = chosen[_last_step(y[chosen]) :]
    if len(chosen) < _FEWEST:
        return None
    values = [float(x) for x in y[chosen]]
    flicker = max(noise(values), 1e-4 * abs(values[-1]))
    law = forecast(t[chosen], y[chosen], float(t[-1]))
    return law, flicker


def _last_step(y: Floats) -> int:
    """Where the curve goes on after its last abrupt fall; 0 where it has none.

    A decay of the learning rate in one step, say: the loss falls within two blocks by far more
    than by its noise, and than in the blocks before and after.
    """
    if len(y) < 8:
        return 0
    fall = y[:-2] - y[2:]
    around = np.maximum(np.abs(fall[:-4]), np.abs(fall[4:]))
    abrupt = fall[2:-2] > _STEP * np.maximum(0.5 * around, noise([float(x) for x in y]))
    found = np.flatnonzero(abrupt)
    return int(found[-1]) + 4 if len(found) else 0


def _at(i: int) -> slice:
    return slice(i, i + 1)
