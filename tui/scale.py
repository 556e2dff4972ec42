"""The vertical axis: which values are in view, where they lie, and what is written beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lossguard.tui import figures
from lossguard.tui.curve import Curve, Floats

OFF_SCALE_SPANS = 1.0
"""On a linear axis, values further than this many usual ranges above the usual are cut off."""


@dataclass(frozen=True)
class Scale:
    """Maps values to 0 (bottom) .. 1 (top); ``log`` tells a logarithmic axis."""

    low: float
    high: float
    log: bool
    clipped: bool = False
    """Some values lie above ``high``."""

    def place(self, values: Floats) -> Floats:
        """Positions from 0 to 1. Values out of view stop at the edge; NaN stays NaN.

        On a logarithmic axis zero and negative values lie at the bottom.
        """
        low, high = self.low, self.high
        if self.log:
            positive = np.where(values > 0, values, np.where(np.isnan(values), np.nan, low))
            values = np.log10(positive)
            low, high = math.log10(low), math.log10(high)
        return np.clip((values - low) / (high - low), 0.0, 1.0)

    def holds(self, number: float) -> bool:
        """Whether the value is in view."""
        return self.low <= number <= self.high

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """About ``most`` round values in view, two at least, with their labels."""
        if self.log and (values := _log_ticks(self.low, self.high, most)):
            return [(value, figures.tick(value, value)) for value in values]
        for parts in range(max(1, most), most + 5):
            spacing = nice_step((self.high - self.low) / parts)
            first = math.ceil(self.low / spacing - 1e-9)
            last = math.floor(self.high / spacing + 1e-9)
            if last > first:
                break
        return [(i * spacing, figures.tick(i * spacing, spacing)) for i in range(first, last + 1)]


def fit(curves: list[Curve], limit: float | None, log: bool) -> Scale | None:
    """The scale for these curves; None when there is nothing finite to show.

    A logarithmic axis needs a positive value, and is linear without one.
    """
    low = np.concatenate([curve.low for curve in curves]) if curves else np.empty(0)
    high = np.concatenate([curve.high for curve in curves]) if curves else np.empty(0)
    low, high = low[np.isfinite(low)], high[np.isfinite(high)]
    if not len(low):
        return None
    if log and (high > 0).any():
        positive = low[low > 0]
        bottom = float(positive.min() if len(positive) else high[high > 0].min())
        return _logarithmic(bottom, float(high.max()), limit)
    return _linear(low, high, limit)


def _logarithmic(low: float, high: float, limit: float | None) -> Scale:
    if limit is not None and 0 < limit <= high * 30:
        high = max(high, limit)
    margin = max(0.05 * math.log10(high / low), 0.02)
    return Scale(low / 10**margin, high * 10**margin, log=True)


def _linear(low: Floats, high: Floats, limit: float | None) -> Scale:
    bottom, top = float(low.min()), float(high.max())
    usual_low, usual_high = float(np.quantile(low, 0.02)), float(np.quantile(high, 0.98))
    usual = usual_high - usual_low
    clipped = usual > 0 and top > usual_high + OFF_SCALE_SPANS * usual
    if clipped:
        top = usual_high + 0.3 * usual
    if limit is not None and top < limit <= top + 0.75 * (top - bottom):
        top = limit
    span = top - bottom or abs(top) or 1.0
    return Scale(bottom - 0.04 * span, top + 0.04 * span, log=False, clipped=clipped)


def nice_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    for factor in (1.0, 2.0, 5.0):
        if rough <= factor * power * (1 + 1e-9):
            return float(factor * power)
    return float(10.0 * power)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Decades, with 2 and 5 between them where there is room; empty if too few are in view."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        values = [f * 10.0**p for p in range(first, last + 1) for f in factors]
        values = [value for value in values if low <= value <= high]
        if len(values) <= most:
            return values if len(values) >= 2 else []
    stride = math.ceil((last - first + 1) / max(1, most))
    return [10.0**p for p in range(first, last + 1, stride) if low <= 10.0**p <= high]
