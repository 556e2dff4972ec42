"""One chart as lines of styled text: curve, limit, incidents, rollbacks and axes.

From the top: one row of marks (incidents at their onset, rollbacks from where to where), the
plot, and the axis with the steps written into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lossguard.tui import canvas, figures, marks, scale
from lossguard.tui.curve import EMPTY, Bools, Curve, Floats, Ints

GUTTER = figures.TICK_CELLS + 2
"""Cells for the labels of the vertical axis and the axis itself."""
LEAST_WIDTH = GUTTER + 12
LEAST_HEIGHT = 3
_CELLS_A_LABEL = 14
_MOST_LINES = 12


@dataclass(frozen=True)
class Subject:
    """What a chart shows."""

    curve: Curve = EMPTY
    points: Curve = EMPTY
    limit: float | None = None
    incidents: tuple[tuple[int, str], ...] = ()
    """(onset step, severity)."""
    rollbacks: tuple[tuple[int, int], ...] = ()
    """(step at which it happened, step it went back to)."""


@dataclass(frozen=True)
class Window:
    """Which steps are in view, and where each of them lies."""

    first: int
    last: int
    cells: int

    def dots(self, steps: Ints) -> Ints:
        """Columns of dots."""
        n = self.cells * canvas.DOT_COLUMNS
        share = (steps - self.first) / max(1, self.last - self.first)
        at: Ints = np.clip((share * (n - 1)).round(), 0, n - 1).astype(np.int64)
        return at

    def cell(self, step: int) -> int:
        """The column of cells; may lie outside for a step that does."""
        share = (step - self.first) / max(1, self.last - self.first)
        return round(share * (self.cells * canvas.DOT_COLUMNS - 1)) // canvas.DOT_COLUMNS


def draw(subject: Subject, width: int, height: int, log: bool) -> list[list[canvas.Run]]:
    """The rows of the chart, each ``width`` cells in runs of one style."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return [[(" " * width, "")] for _ in range(height)]
    axis = scale.fit([subject.curve, subject.points], subject.limit, log)
    if axis is None:
        return _nothing_yet(subject, width, height)
    window = _window(subject, width - GUTTER)
    sheet = canvas.Canvas(window.cells, height - 2)
    ticks = _tick_rows(axis, sheet.height)
    _background(sheet, subject, axis, ticks)
    _curve(sheet, subject, axis, window)
    _events(sheet, subject, window)
    labels = [[(ticks.get(y, "").rjust(figures.TICK_CELLS), "label")] for y in range(sheet.height)]
    rules: list[list[canvas.Run]] = [
        [(" ┤" if y in ticks else " │", "axis")] for y in range(sheet.height)
    ]
    body = [a + b + c for a, b, c in zip(labels, rules, sheet.rows(), strict=True)]
    top = [(" " * GUTTER, ""), *_marks(subject, window)]
    bottom = [(" " * (GUTTER - 1), ""), ("╰", "axis"), *_steps(window)]
    return [top, *body, bottom]


def _window(subject: Subject, cells: int) -> Window:
    steps = np.concatenate((subject.curve.steps, subject.points.steps))
    return Window(int(steps.min()), max(int(steps.max()), int(steps.min()) + 1), cells)


def _nothing_yet(subject: Subject, width: int, height: int) -> list[list[canvas.Run]]:
    if subject.curve.nonfinite.any():
        text, style = f"{marks.NONFINITE} not one finite value so far", "nonfinite"
    else:
        text, style = "no values yet", "label"
    rows: list[list[canvas.Run]] = [[(" " * width, "")] for _ in range(height)]
    rows[height // 2] = [(text.center(width)[:width], style)]
    return rows


def _tick_rows(axis: scale.Scale, height: int) -> dict[int, str]:
    """The label of each row that has one; the topmost and lowest values win their rows."""
    rows: dict[int, str] = {}
    for number, label in axis.ticks(max(2, 2 * height // 3)):
        position = float(axis.place(np.array([number]))[0])
        rows.setdefault(min(height - 1, round((1 - position) * (height - 1))), label)
    return rows


def _background(
    sheet: canvas.Canvas, subject: Subject, axis: scale.Scale, ticks: dict[int, str]
) -> None:
    for row in ticks:
        for x in range(3, sheet.width, 4):
            sheet.put(x, row, "·", "grid")
    if subject.limit is not None and axis.holds(subject.limit):
        position = float(axis.place(np.array([subject.limit]))[0])
        row = round((1 - position) * (sheet.dot_height - 1))
        sheet.dashes(row, "limit")


def _curve(sheet: canvas.Canvas, subject: Subject, axis: scale.Scale, window: Window) -> None:
    curve = subject.curve
    at = window.dots(curve.steps)
    low, high, mean = canvas.columns(at, curve.low, curve.high, curve.last, sheet.dot_width)

    def rows(values: Floats) -> Floats:
        placed: Floats = (1 - axis.place(values)) * (sheet.dot_height - 1)
        return placed

    sheet.fill(rows(high), rows(low), "band")
    sheet.fill(*canvas.connect(rows(mean)), "line", over=True)
    undone = _undone(subject, window)
    sheet.restyle(undone, "band", "undone-band")
    sheet.restyle(undone, "line", "undone")
    for x, row in zip(window.dots(subject.points.steps), rows(subject.points.last), strict=True):
        if np.isfinite(row):
            cell = int(x) // canvas.DOT_COLUMNS
            sheet.put(cell, int(row) // canvas.DOT_ROWS, marks.POINT, "point")
    with np.errstate(invalid="ignore"):
        above = np.flatnonzero(high > axis.high) // canvas.DOT_COLUMNS
    for x in set(above.tolist()):
        sheet.put(x, 0, marks.OFF_SCALE, "peak")


def _undone(subject: Subject, window: Window) -> Bools:
    """The columns whose updates a rollback took back."""
    cells = np.zeros(window.cells, np.bool_)
    for step, back_to in subject.rollbacks:
        start, end = window.cell(back_to), window.cell(step)
        cells[max(0, start) : max(0, end + 1)] = True
    return cells


def _events(sheet: canvas.Canvas, subject: Subject, window: Window) -> None:
    # A run with hundreds of incidents keeps all their marks, but lines under the newest alone.
    for onset, severity in sorted(subject.incidents)[-_MOST_LINES:]:
        sheet.column(window.cell(onset), "┊", severity)
    for step, _ in subject.rollbacks:
        sheet.column(window.cell(step), "│", "rollback")
    bad = subject.curve.steps[subject.curve.nonfinite]
    for x in set((window.dots(bad) // canvas.DOT_COLUMNS).tolist()):
        sheet.put(x, 0, marks.NONFINITE, "nonfinite")


def _marks(subject: Subject, window: Window) -> list[canvas.Run]:
    """The row above the plot. Where marks meet, the gravest incident is the one seen."""
    row = canvas.Canvas(window.cells, 1)
    for step, back_to in subject.rollbacks:
        start, end = window.cell(back_to), window.cell(step)
        for x in range(max(0, start), min(end, window.cells)):
            row.put(x, 0, "━", "rollback")
        row.put(start, 0, "◀", "rollback")
        row.put(end, 0, "┓", "rollback")
    order = list(reversed(marks.SEVERITIES))
    ranked = sorted(
        subject.incidents, key=lambda one: order.index(one[1]) if one[1] in order else -1
    )
    for onset, severity in ranked:
        row.put(window.cell(onset), 0, marks.severity_mark(severity).glyph, severity)
    return row.rows()[0]


def _steps(window: Window) -> list[canvas.Run]:
    """The axis, with round steps written into it, each centred at its place."""
    row = canvas.Canvas(window.cells, 1)
    row.write(0, 0, "─" * window.cells, "axis")
    spacing = max(
        1, int(scale.nice_step((window.last - window.first) * _CELLS_A_LABEL / window.cells))
    )
    taken = -1
    for step in range(-(-window.first // spacing) * spacing, window.last + 1, spacing):
        text = f" {figures.short_step(step)} "
        start = window.cell(step) - len(text) // 2
        start = min(max(start, 0), window.cells - len(text))
        if start > taken:
            row.write(start, 0, text, "label")
            taken = start + len(text)
    return row.rows()[0]
