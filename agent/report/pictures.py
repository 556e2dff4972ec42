"""The plots of a report as PNG files, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lossguard.agent import plot_panel
from lossguard.agent.feed import IncidentLine
from lossguard.agent.incidents import finding_of
from lossguard.agent.report.gathering import RunData
from lossguard.agent.report.html_plot import Panel
from lossguard.agent.report.panels import main_panels
from lossguard.agent.report.stories import stories_of
from lossguard.agent.report.writing import file_name
from lossguard.detectors import Finding
from lossguard.errors import LossguardError

_SIZE = (9.0, 2.8)
"""Inches."""
_UNDONE, _SMOOTH, _VALIDATION = "#8A94A0", "#D55E00", "#CC79A7"


def draw_pictures(data: RunData, folder: Path) -> dict[str, Path]:
    """Draw the main metrics into a folder; the file of each metric. Raises LossguardError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LossguardError("drawing needs matplotlib: pip install matplotlib") from error
    marks = [
        plot_panel.Mark(found_in, found_in.metric, story.number)
        for story in stories_of(data)
        if (found_in := _finding(story.incident)) is not None
    ]
    found = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for panel in main_panels(data):
            metric = panel.curve.metric
            figure = Figure(figsize=_SIZE, dpi=120, facecolor="white", layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            curve = _curve(panel)
            plot_panel.draw_panel(axes, metric, [curve])
            if panel.smooth is not None:
                axes.plot(*panel.smooth, color=_SMOOTH, lw=1.2)
            if panel.beside is not None:
                axes.plot(panel.beside.steps, panel.beside.values, "o", color=_VALIDATION, ms=4)
            if panel.bound is not None:
                axes.plot(panel.bound.steps, panel.bound.last, "--", color=plot_panel.FAINT, lw=1)
            for at, to in data.saved.rollbacks:
                axes.axvspan(to + 1, at, color=_UNDONE, alpha=0.35, linewidth=0)
            plot_panel.draw_marks(axes, metric, [curve], marks)
            plot_panel.draw_step_axis(axes)
            path = folder / f"{file_name(metric)}.png"
            figure.savefig(path)
            found[metric] = path
    except OSError as error:
        raise LossguardError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return found


def _curve(panel: Panel) -> plot_panel.Curve:
    curve = panel.curve
    steps = np.concatenate([curve.steps, curve.nonfinite])
    values = np.concatenate([curve.values, np.full(len(curve.nonfinite), np.nan)])
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order].astype(np.float64), values[order]
    return plot_panel.Curve(steps, values, values, values, np.isnan(values))


def _finding(line: IncidentLine) -> Finding | None:
    """None for a symptom that this version does not know."""
    try:
        return finding_of(line)
    except ValueError:
        return None
