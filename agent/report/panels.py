"""Which plots a report shows, and in which order."""

from __future__ import annotations

from lossguard.agent.logs.names import ORDER
from lossguard.agent.report.curves import Curve
from lossguard.agent.report.gathering import MAIN, RunData
from lossguard.agent.report.html_plot import Panel

_SMOOTHED = frozenset(("loss", "grad_norm", "step_time"))
_ENOUGH = 60
"""Stretches from which on a smoothed line tells more than the curve."""


def main_panels(data: RunData) -> list[Panel]:
    """The metrics that most people look at, as far as they were measured."""
    return [_panel(data, data.curves[metric]) for metric in MAIN if metric in data.curves]


def other_panels(data: RunData) -> list[Panel]:
    """All the rest, in the order of docs/metrics.md as far as they are in it."""
    others = [metric for metric in data.curves if metric not in MAIN]
    others.sort(key=lambda metric: (ORDER.get(metric, len(ORDER)), metric))
    return [_panel(data, data.curves[metric]) for metric in others]


def _panel(data: RunData, curve: Curve) -> Panel:
    smooth = None
    if curve.metric in _SMOOTHED and len(curve.means) >= _ENOUGH:
        cuts = tuple(at for at, _ in data.saved.rollbacks)
        smooth = (curve.mean_steps, curve.smoothed(cuts))
    return Panel(
        curve=curve,
        first=data.extent.first,
        last=data.extent.last,
        smooth=smooth,
        beside=data.curves.get("val_loss") if curve.metric == "loss" else None,
        bound=data.saved.bounds.get(curve.metric),
    )
