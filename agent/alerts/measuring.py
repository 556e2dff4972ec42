"""The value that is wrong, and the range it was expected in."""

from __future__ import annotations

import math

import numpy as np

from lossguard.agent.alerts.records import Measured
from lossguard.agent.feed import Series
from lossguard.agent.plot_panel import Curve

_BEFORE = 64
"""Buckets before the onset that say what is usual."""
_ENOUGH = 8


def measure(series: Series, onset_step: int) -> Measured | None:
    """The value farthest from what was usual shortly before the onset (its 2nd to 98th percentile);
    None where too little is known of before, or nothing of after."""
    curve = Curve.of_series(series)
    begin = int(np.searchsorted(curve.steps, onset_step))
    before = curve.last[max(0, begin - _BEFORE) : begin]
    before = before[np.isfinite(before)]
    if len(before) < _ENOUGH or begin >= len(curve.steps):
        return None
    usual_low, usual_high = (float(value) for value in np.quantile(before, (0.02, 0.98)))
    if curve.nonfinite[begin:].any():
        return Measured(value=math.nan, low=usual_low, high=usual_high)
    most, least = float(np.nanmax(curve.high[begin:])), float(np.nanmin(curve.low[begin:]))
    value = most if most - usual_high >= usual_low - least else least
    return Measured(value=value, low=usual_low, high=usual_high)
