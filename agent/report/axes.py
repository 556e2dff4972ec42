"""Where values lie on a plot, in a square of 1000 by 1000, and which of them are written beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossguard.agent.report.curves import Curve, Floats
from lossguard.agent.report.wording import number

SIZE = 1000
_LINEAR = frozenset(("lr", "gpu_utilization", "output_entropy", "epoch"))
_LOG_OVER = 20.0
"""Largest over smallest value from which on an axis is logarithmic."""
_MARGIN = 0.05
_MOST, _MANY = 0.985, 60
"""Share of the points that are in view at least, where there are so many."""
_AROUND = 3.0
"""How much higher than these the first to be out of view is."""
_NEAR_END, _END = 0.97 * SIZE, ' class="end"'


@dataclass(frozen=True)
class Axis:
    """A range of values; ``is_log`` needs both ends above 0."""

    low: float
    high: float
    is_log: bool = False

    def place(self, values: Floats) -> Floats:
        """From 0 at the low end to 1000 at the high end; values beyond are beyond."""
        low, high = self.low, self.high
        if self.is_log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(values)
            low, high = math.log10(low), math.log10(high)
        return (values - low) / (high - low) * SIZE

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """(place, label), about so many."""
        low, high = self.low, self.high
        values = _log_ticks(low, high) if self.is_log else _ticks(low, high, count)
        places = self.place(np.array(values, dtype=np.float64)).tolist()
        return [(place, number(value)) for place, value in zip(places, values, strict=True)]


def step_axis(first: int, last: int) -> Axis:
    """Of a plot that begins with the first step and ends with the last."""
    return Axis(first, max(last, first + 1))


def step_labels(axis: Axis) -> str:
    """The steps below a plot, as HTML."""
    found = [(place, text) for place, text in axis.ticks(8) if "." not in text]
    ends = [_END if place > _NEAR_END else "" for place, _ in found]
    return "".join(
        f'<span style="left:{place / SIZE * 100:.2f}%"{end}>{text}</span>'
        for (place, text), end in zip(found, ends, strict=True)
    )


def value_axis(metric: str, curves: Sequence[Curve], bound: Floats) -> Axis | None:
    """With room for all points; None without points.

    Logarithmic where they differ by decades (of those that are usually linear: where one lies
    decades above the others); where that is so for few points only, all others have the room, and
    those few lie beyond it.
    """
    values = np.concatenate([curve.values for curve in curves])
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    usual = low if metric not in _LINEAR else float(np.median(values))
    if low > 0 and high / usual > _LOG_OVER:
        most = float(np.quantile(values, _MOST))
        if len(values) >= _MANY and most / low <= _LOG_OVER:
            known = bound[np.isfinite(bound)]
            level = float(np.median(known)) if len(known) else 0.0
            top = float(values[values <= low + _AROUND * (most - low)].max())
            top = max(top, level) if level < _AROUND * top else top
            return Axis(max(0.0, low - _MARGIN * (top - low)), top + 2 * _MARGIN * (top - low))
        factor = (high / low) ** _MARGIN
        return Axis(low / factor, high * factor, is_log=True)
    room = _MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(low - room, high + room)


def _ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(size * unit for size in (1, 2, 5, 10) if size * unit >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    leads = (1, 2, 5) if len(decades) <= 3 else (1,)
    every = max(1, len(decades) // 5)
    values = [lead * 10.0**decade for decade in decades[::every] for lead in leads]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) > 1 else _ticks(low, high, 4)
