"""How far a stretch of losses swings, how regularly, and whether it comes down meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PROGRESS = 0.5
"""Fall, in units of the amplitude, that is progress; swings that shrink to that are, too."""
_CLIP = 3.0
"""Deviations are cut there [median absolute deviations]: a spike is no swing."""
_NO_LEVEL = 1e-30
_SLOWEST = 6
"""Cycles a stretch must hold for its swings to count: slower ones look like a wandering level."""
_BANDWIDTH = 2
"""Frequencies on either side of the dominant one that count as the same."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Losses without their trend, relative to their level."""

    level: float
    """Median [loss]."""
    residuals: Floats
    """Deviations from a straight line, relative to the level, spikes cut."""
    amplitude: float
    """Half the distance of their 5 % and 95 % quantiles, relative to the level."""
    low: float
    high: float
    """Those quantiles of the losses themselves [loss]."""
    fall: float
    """Median of the first third - median of the last third, relative to the level."""

    @property
    def falls(self) -> bool:
        """Whether it makes progress, or its swings die out."""
        third = len(self.residuals) // 3
        early, late = self.residuals[:third], self.residuals[-third:]
        dying = float(np.abs(late).mean()) < PROGRESS * float(np.abs(early).mean())
        return dying or self.fall > PROGRESS * self.amplitude

    def regularity(self) -> tuple[float, float]:
        """Share of the power around the dominant frequency, and its period [observations].

        From the periodogram, five frequencies wide, of at least six cycles: for white noise in
        128 losses the share is about 0.15 and seldom 0.3, for a sine 0.95. It is what the
        Lomb-Scargle periodogram gives at equal distances.
        """
        power = np.square(np.abs(np.fft.rfft(self.residuals)))[1:]
        total = float(power.sum())
        if total <= 0.0:
            return 0.0, 0.0
        band = np.convolve(power, np.ones(2 * _BANDWIDTH + 1), mode="same")
        # Bands reach down to no frequency slower than the slowest that counts.
        first = _SLOWEST - 1
        band[:first] = 0.0
        for i in range(first, min(first + _BANDWIDTH, len(power))):
            band[i] = power[first : i + _BANDWIDTH + 1].sum()
        dominant = int(np.argmax(band))
        low = max(first, dominant - _BANDWIDTH)
        peak = low + int(np.argmax(power[low : dominant + _BANDWIDTH + 1]))
        return float(band[dominant]) / total, len(self.residuals) / (peak + 1)


def stretch(losses: Sequence[float]) -> Stretch | None:
    """Take the trend out of a stretch of losses; None where the level is zero. n >= 6."""
    x = np.asarray(losses, dtype=np.float64)
    level = float(np.median(x))
    if abs(level) < _NO_LEVEL:
        return None
    y = (x - level) / abs(level)
    bound = _CLIP * float(np.median(np.abs(y)))
    y = np.minimum(np.maximum(y, -bound), bound)
    t = np.arange(len(y)) - 0.5 * (len(y) - 1)
    residuals = y - y.mean() - t * (float(t @ y) / float(t @ t))
    cut = len(y) // 20
    rest, ordered = np.sort(residuals), np.sort(x)
    third = len(y) // 3
    return Stretch(
        level=level,
        residuals=residuals,
        amplitude=0.5 * float(rest[-1 - cut] - rest[cut]),
        low=float(ordered[cut]),
        high=float(ordered[-1 - cut]),
        fall=float(np.median(y[:third]) - np.median(y[-third:])),
    )


def reversals(values: Sequence[float], height: float) -> int:
    """How often a series turns round after having moved by at least ``height``."""
    count, direction = 0, 0
    low = high = values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
        if direction <= 0 and value - low >= height:
            count += direction != 0
            direction, high = 1, value
            low = value
        elif direction >= 0 and high - value >= height:
            count += direction != 0
            direction, low = -1, value
            high = value
    return count
