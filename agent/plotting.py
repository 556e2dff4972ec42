"""A picture of a log: its curves, one below the other, with what was found in them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lossguard.agent.backtest import Backtest
from lossguard.agent.backtest_printing import summary
from lossguard.agent.history import MetricHistory
from lossguard.agent.plot_panel import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    Curve,
    Mark,
    draw_marks,
    draw_panel,
    draw_step_axis,
)
from lossguard.agent.run import Run
from lossguard.detectors import Finding, Severity
from lossguard.errors import LossguardError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = ("loss", "val_loss", "grad_norm", "lr", "loss_scale")
_MAX_PANELS = 8
_LISTED, _MARKED = 12, 200
"""Findings that are described below the picture, and that are marked in it: the most severe."""
_WIDTH, _FIRST_PANEL, _PANEL, _LINE, _TOP = 10.0, 2.6, 1.6, 0.19, 1.05
"""Inches."""
_COLUMNS = 118
"""Characters of a line of the list below."""


def draw(result: Backtest, picture: Path) -> None:
    """Draw a backtest into a file, whose suffix says the format.

    Needs ``result.runs``. Raises LossguardError where matplotlib is missing or the file cannot be
    written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LossguardError("drawing needs matplotlib: pip install matplotlib") from error
    metrics = _metrics_of(result)
    marks = _marks(result.findings, metrics)
    notes = _notes(result.findings)
    heights = [_FIRST_PANEL] + [_PANEL] * (len(metrics) - 1)
    below = 0.75 + _LINE * len(notes)
    height = _TOP + sum(heights) + below
    figure = Figure(figsize=(_WIDTH, height), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False, height_ratios=heights)[
        :, 0
    ]
    figure.subplots_adjust(
        left=0.105, right=0.975, top=1 - _TOP / height, bottom=below / height, hspace=0.12
    )
    for panel, metric in zip(panels, metrics, strict=True):
        drawn = [run.charts.histories for run in result.runs]
        curves = [Curve.of(histories[metric]) for histories in drawn if metric in histories]
        draw_panel(panel, metric, curves)
        draw_marks(panel, metric, curves, marks)
    draw_step_axis(panels[-1])
    _caption(figure, result, notes, height)
    try:
        figure.savefig(picture)
    except (OSError, ValueError) as error:
        raise LossguardError(f"{picture}: cannot be drawn ({error})") from error


def _metrics_of(result: Backtest) -> list[str]:
    """The usual metrics that there are, and those that something was found in."""
    there = {name for run in result.runs for name in run.charts.histories}
    usual = [metric for metric in _PANELS if metric in there]
    found = dict.fromkeys(f.metric for f in result.findings if f.metric in there)
    others = [metric for metric in found if metric not in usual]
    return [*usual, *others][:_MAX_PANELS] or sorted(there)[:1] or ["loss"]


def _most_severe(findings: Sequence[Finding], most: int) -> list[Finding]:
    """In the order they came in, which is that of their numbers."""
    order = sorted(range(len(findings)), key=lambda i: -findings[i].severity.rank)[:most]
    return [findings[i] for i in sorted(order)]


def _marks(findings: Sequence[Finding], metrics: Sequence[str]) -> list[Mark]:
    """What is found in a metric without a panel is marked in the first one."""
    numbers = {id(f): number for number, f in enumerate(_most_severe(findings, _LISTED), start=1)}
    return [
        Mark(f, f.metric if f.metric in metrics else metrics[0], numbers.get(id(f), 0))
        for f in _most_severe(findings, _MARKED)
    ]


def _notes(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """(severity, text) of each line below the picture; only first lines have a severity."""
    lines: list[tuple[str, str]] = []
    listed = _most_severe(findings, _LISTED)
    for number, finding in enumerate(listed, start=1):
        end = f" to {finding.end_step:,}" if (finding.end_step or 0) > finding.onset_step else ""
        end = end or (" on" if finding.end_step is None else "")
        since = f"step{'s' * end.startswith(' to')} {finding.onset_step:,}{end}"
        text = f"{number}  {finding.severity} {finding.symptom}, {since}: {finding.message}"
        first, *others = textwrap.wrap(text, _COLUMNS, subsequent_indent="    ")[:3]
        lines.append((str(finding.severity), first))
        lines.extend(("", other) for other in others)
    if len(findings) > len(listed):
        lines.append(("", f"and {len(findings) - len(listed)} more"))
    return lines


def _caption(
    figure: Figure, result: Backtest, notes: Sequence[tuple[str, str]], height: float
) -> None:
    from matplotlib.lines import Line2D

    name = result.file if len(result.file) <= 90 else f"...{result.file[-87:]}"
    figure.text(0.105, 1 - 0.26 / height, name, fontsize=11.5, weight="bold", color=INK)
    figure.text(0.105, 1 - 0.52 / height, summary(result), fontsize=9.5, color=FAINT)
    there = [s for s in reversed(Severity) if any(f.severity is s for f in result.findings)]
    dashes = (0, (4, 2))
    handles = [
        Line2D([], [], color=COLOURS[s], marker=MARKERS[s], ls=dashes, lw=1.0, ms=8, mec="white",
               label=f"{s}: onset, and how long")
        for s in map(str, there)
    ]  # fmt: skip
    if any(history.series("").nonfinite.strip(b"\0") for history in _histories(result.runs)):
        handles.append(
            Line2D([], [], color=INK, marker="|", ls="", ms=8, mew=1.4, label="NaN or Inf")
        )
    if handles:
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.098, 1 - 0.58 / height),
            ncols=len(handles), fontsize=8.5, frameon=False, handlelength=2.4, borderaxespad=0.0,
            columnspacing=1.6, labelcolor=INK,
        )  # fmt: skip
    for i, (severity, text) in enumerate(notes):
        at = (0.12 + _LINE * (len(notes) - 1 - i)) / height
        if severity:
            figure.add_artist(
                Line2D([0.05], [at + 0.05 / height], marker=MARKERS[severity], ls="", ms=7,
                       color=COLOURS[severity], mec="white", transform=figure.transFigure)
            )  # fmt: skip
        figure.text(0.06, at, text, fontsize=8.5, color=INK)


def _histories(runs: Sequence[Run]) -> list[MetricHistory]:
    return [run.charts.histories[m] for run in runs for m in _PANELS if m in run.charts.histories]
