"""One panel of a picture: a metric over the steps, and what was found in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lossguard.agent.feed import Series
from lossguard.agent.history import MetricHistory
from lossguard.detectors import Finding, Severity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

# Okabe and Ito's palette, which colour-blind people can tell apart; the shape says it again.
COLOURS = {"info": "#009E73", "warning": "#E69F00", "critical": "#D55E00"}
MARKERS = {"info": "o", "warning": "^", "critical": "X"}
INK, FAINT = "#222222", "#777777"
_CURVE, _BAND, _GRID = "#0072B2", "#56B4E9", "#E4E4E4"
_TITLES = {
    "loss": "loss", "val_loss": "validation loss", "grad_norm": "gradient norm",
    "lr": "learning rate", "loss_scale": "loss scale",
}  # fmt: skip
_LINEAR = frozenset(("lr", "gpu_utilization", "output_entropy"))
_LOG_OVER = 20.0
"""Largest over smallest value from which on an axis is logarithmic."""
_FEW = 80
"""Points that are drawn as points."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A metric over a run: buckets of steps with what was in them. Arrays of one length."""

    steps: Floats
    low: Floats
    high: Floats
    last: Floats
    nonfinite: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, history: MetricHistory) -> Curve:
        """From the history of a run."""
        return cls.of_series(history.series(""))

    @classmethod
    def of_series(cls, series: Series) -> Curve:
        """From what viewers get of it."""
        low, high, last = (
            np.frombuffer(data, dtype=np.float32).astype(np.float64)
            for data in (series.low, series.high, series.last)
        )
        return cls(
            np.frombuffer(series.steps, dtype=np.int64).astype(np.float64),
            low,
            high,
            last,
            np.frombuffer(series.nonfinite, dtype=np.uint8).astype(np.bool_),
        )

    def at(self, step: int) -> float:
        """The highest value about that step; NaN where nothing finite was measured."""
        if not len(self.steps):
            return math.nan
        i = max(0, int(np.searchsorted(self.steps, step, side="right")) - 1)
        return float(self.high[i])


def draw_panel(panel: Axes, metric: str, curves: Sequence[Curve]) -> None:
    """The curves of one run after the other, the last one strong, and the axis beside them."""
    for i, curve in enumerate(curves):
        alpha = 1.0 if i == len(curves) - 1 else 0.4
        measured = np.isfinite(curve.last)
        steps, last = curve.steps[measured], curve.last[measured]
        points = "o" if len(steps) <= _FEW else ""
        panel.fill_between(
            steps, curve.low[measured], curve.high[measured],
            color=_BAND, alpha=0.45 * alpha, linewidth=0,
        )  # fmt: skip
        panel.plot(steps, last, color=_CURVE, alpha=alpha, lw=1.1, marker=points, ms=2.8)
        broken = curve.steps[curve.nonfinite]
        panel.plot(
            broken, np.full(len(broken), 0.95), "|", transform=panel.get_xaxis_transform(),
            color=INK, ms=7, mew=1.4, clip_on=False,
        )  # fmt: skip
    _value_axis(panel, is_log=metric not in _LINEAR and _spans_decades(curves))
    panel.set_ylabel(_TITLES.get(metric, metric.replace("_", " ")), color=INK, fontsize=9)
    panel.yaxis.set_label_coords(-0.088, 0.5)
    panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=8)
    panel.grid(True, color=_GRID, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(FAINT)


def _value_axis(panel: Axes, *, is_log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if is_log:
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
        panel.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.yaxis.set_major_locator(MaxNLocator(5))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def draw_step_axis(panel: Axes) -> None:
    """Whole steps, with commas."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    panel.set_xlabel("step", color=INK, fontsize=9)


def _spans_decades(curves: Sequence[Curve]) -> bool:
    low = [value for curve in curves for value in curve.low[np.isfinite(curve.low)].tolist()]
    high = [value for curve in curves for value in curve.high[np.isfinite(curve.high)].tolist()]
    if not low or min(low) <= 0:
        return False
    return bool(max(high) / min(low) > _LOG_OVER)


@dataclass(frozen=True)
class Mark:
    """A finding, the panel it belongs to, and its number in the list below (0: not in it)."""

    finding: Finding
    metric: str
    number: int


def draw_marks(panel: Axes, metric: str, curves: Sequence[Curve], marks: Sequence[Mark]) -> None:
    """Onset lines in every panel but for what is only informative; the span, the marker and the
    number where the finding was made."""
    last = max((float(c.steps[-1]) for c in curves if len(c.steps)), default=0.0)
    labels: dict[int, list[str]] = {}
    for mark in marks:
        finding = mark.finding
        colour = COLOURS[str(finding.severity)]
        onset, end = finding.onset_step, finding.end_step
        here = mark.metric == metric
        if here or finding.severity is not Severity.INFO:
            panel.axvline(onset, color=colour, lw=1.0, ls=(0, (4, 2)), alpha=0.85)
        if not here:
            continue
        panel.axvspan(onset, max(onset, last if end is None else end), color=colour, alpha=0.13,
                      linewidth=0)  # fmt: skip
        height, place = _place(panel, curves, onset)
        panel.plot(
            onset, height, MARKERS[str(finding.severity)], color=colour, ms=8.5, mec="white",
            mew=0.9, transform=place, clip_on=False, zorder=5 + finding.severity.rank,
        )  # fmt: skip
        if mark.number:
            labels.setdefault(onset, []).append(str(mark.number))
    for onset, named in labels.items():
        height, place = _place(panel, curves, onset)
        panel.annotate(
            ", ".join(named), (onset, height), xycoords=place, xytext=(6, 3),
            textcoords="offset points", fontsize=8.5, weight="bold", color=INK, zorder=9,
        )  # fmt: skip


def _place(panel: Axes, curves: Sequence[Curve], step: int) -> tuple[float, Transform]:
    """Where the curve is at a step; near the upper edge where it has no finite value there."""
    for curve in reversed(curves):
        if math.isfinite(value := curve.at(step)):
            return value, panel.transData
    return 0.95, panel.get_xaxis_transform()
