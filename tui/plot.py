"""One chart as lines of styled text: curve, bound, incidents, rollbacks, cursor and axes.

From the top: one row of marks (incidents at their onset, rollbacks from where to where), the
plot, and the axis with the steps written into it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lossguard.tui import canvas, figures, marks, scale
from lossguard.tui.curve import EMPTY, Bools, Curve, Floats, Ints
from lossguard.tui.view import Window

GUTTER = figures.TICK_CELLS + 2
"""Cells for the labels of the vertical axis and the axis itself."""
LEAST_WIDTH = GUTTER + 12
LEAST_HEIGHT = 3
_CELLS_A_LABEL = 14
_MOST_LINES = 12


@dataclass(frozen=True, eq=False)
class Subject:
    """What a chart shows."""

    curve: Curve = EMPTY
    points: Curve = EMPTY
    limit: float | None = None
    """The bound that holds now."""
    bounds: Curve = EMPTY
    """The bounds as they were, each from its step on."""
    other: Curve = EMPTY
    """The same of another run."""
    incidents: tuple[tuple[int, str], ...] = ()
    """(onset step, severity)."""
    rollbacks: tuple[tuple[int, int], ...] = ()
    """(step at which it happened, step it went back to)."""

    @property
    def whole(self) -> Window | None:
        """All steps there are."""
        parts = [c.steps for c in (self.curve, self.points, self.other) if len(c)]
        if not parts:
            return None
        first = min(int(steps[0]) for steps in parts)
        return Window(first, max(first + 1, *(int(steps[-1]) for steps in parts)))

    def within(self, window: Window) -> Subject:
        """What of it reaches into the window."""
        curves = {
            name: getattr(self, name).between(window.first, window.last)
            for name in ("curve", "points", "other")
        }
        return replace(self, **curves)


@dataclass(frozen=True)
class Across:
    """Where each step lies."""

    window: Window
    cells: int

    def dots(self, steps: Ints) -> Ints:
        """Columns of dots."""
        n = self.cells * canvas.DOT_COLUMNS
        share = (steps - self.window.first) / self.window.span
        at: Ints = np.clip((share * (n - 1)).round(), 0, n - 1).astype(np.int64)
        return at

    def cell(self, step: int) -> int:
        """The column of cells; may lie outside for a step that does."""
        share = (step - self.window.first) / self.window.span
        return round(share * (self.cells * canvas.DOT_COLUMNS - 1)) // canvas.DOT_COLUMNS

    def steps(self) -> Ints:
        """The step in the middle of each column of dots."""
        n = self.cells * canvas.DOT_COLUMNS
        share = np.arange(n) / max(1, n - 1)
        found: Ints = (self.window.first + share * self.window.span).round().astype(np.int64)
        return found


def draw(
    subject: Subject,
    width: int,
    height: int,
    *,
    log: bool = False,
    window: Window | None = None,
    cursor: int = -1,
    half_life: float = 0.0,
) -> list[list[canvas.Run]]:
    """The rows of the chart, each ``width`` cells in runs of one style."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return [[(" " * width, "")] for _ in range(height)]
    window = window or subject.whole
    seen = subject.within(window) if window is not None else subject
    axis = scale.fit([seen.curve, seen.points, seen.other], subject.limit, log)
    if axis is None or window is None:
        return _nothing_yet(subject, width, height)
    across = Across(window, width - GUTTER)
    sheet = canvas.Canvas(across.cells, height - 2)
    ticks = _tick_rows(axis, sheet.height)
    _background(sheet, seen, axis, ticks, across)
    _curves(sheet, seen, axis, across, half_life)
    _events(sheet, seen, across)
    if window.first <= cursor <= window.last:
        sheet.column(across.cell(cursor), "│", "cursor")
    labels = [[(ticks.get(y, "").rjust(figures.TICK_CELLS), "label")] for y in range(sheet.height)]
    rules: list[list[canvas.Run]] = [
        [(" ┤" if y in ticks else " │", "axis")] for y in range(sheet.height)
    ]
    body = [a + b + c for a, b, c in zip(labels, rules, sheet.rows(), strict=True)]
    top = [(" " * GUTTER, ""), *_marks(subject, across, cursor)]
    bottom = [(" " * (GUTTER - 1), ""), ("╰", "axis"), *_steps(across)]
    return [top, *body, bottom]


def _nothing_yet(subject: Subject, width: int, height: int) -> list[list[canvas.Run]]:
    if subject.curve.nonfinite.any():
        text, style = f"{marks.NONFINITE} not one finite value so far", "nonfinite"
    else:
        text, style = ("no values here" if len(subject.curve) else "no values yet"), "label"
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
    sheet: canvas.Canvas, seen: Subject, axis: scale.Scale, ticks: dict[int, str], across: Across
) -> None:
    for row in ticks:
        for x in range(3, sheet.width, 4):
            sheet.put(x, row, "·", "grid")
    if seen.limit is None and not len(seen.bounds):
        return
    # It may change with every step: what is drawn is where it lies, not each of its jumps.
    bound = canvas.smoothed(_bounds(seen, across), 0.015)
    dashed = np.arange(sheet.dot_width) % 6 < 4
    with np.errstate(invalid="ignore"):
        shown = dashed & (bound >= axis.low) & (bound <= axis.high)
    rows = np.where(shown, (1 - axis.place(bound)) * (sheet.dot_height - 1), np.nan)
    sheet.fill(rows, rows, "limit")


def _bounds(seen: Subject, across: Across) -> Floats:
    """The bound at each column of dots; without a history that of now everywhere."""
    now = np.nan if seen.limit is None else seen.limit
    if not len(seen.bounds):
        return np.full(across.cells * canvas.DOT_COLUMNS, now)
    places = np.searchsorted(seen.bounds.steps, across.steps(), "right") - 1
    values: Floats = np.where(places >= 0, seen.bounds.last[np.maximum(places, 0)], np.nan)
    return values


def _curves(
    sheet: canvas.Canvas, seen: Subject, axis: scale.Scale, across: Across, half_life: float
) -> None:
    def rows(values: Floats) -> Floats:
        placed: Floats = (1 - axis.place(values)) * (sheet.dot_height - 1)
        return placed

    def columns(curve: Curve) -> tuple[Floats, Floats, Floats]:
        at = across.dots(curve.steps)
        return canvas.columns(at, curve.low, curve.high, curve.last, sheet.dot_width)

    if len(seen.other):
        _, _, other = columns(seen.other)
        sheet.fill(*canvas.connect(rows(canvas.smoothed(other, half_life))), "other")
    low, high, mean = columns(seen.curve)
    sheet.fill(rows(high), rows(low), "band")
    sheet.fill(*canvas.connect(rows(canvas.smoothed(mean, half_life))), "line", over=True)
    undone = _undone(seen, across)
    sheet.restyle(undone, "band", "undone-band")
    sheet.restyle(undone, "line", "undone")
    for x, row in zip(across.dots(seen.points.steps), rows(seen.points.last), strict=True):
        if np.isfinite(row):
            cell = int(x) // canvas.DOT_COLUMNS
            sheet.put(cell, int(row) // canvas.DOT_ROWS, marks.POINT, "point")
    with np.errstate(invalid="ignore"):
        above = np.flatnonzero(high > axis.high) // canvas.DOT_COLUMNS
    for x in set(above.tolist()):
        sheet.put(x, 0, marks.OFF_SCALE, "peak")


def _undone(seen: Subject, across: Across) -> Bools:
    """The columns whose updates a rollback took back."""
    cells = np.zeros(across.cells, np.bool_)
    for step, back_to in seen.rollbacks:
        start, end = across.cell(back_to), across.cell(step)
        cells[max(0, start) : max(0, end + 1)] = True
    return cells


def _events(sheet: canvas.Canvas, seen: Subject, across: Across) -> None:
    # A run with hundreds of incidents keeps all their marks, but lines under the newest alone.
    for onset, severity in sorted(seen.incidents)[-_MOST_LINES:]:
        sheet.column(across.cell(onset), "┊", severity)
    for step, _ in seen.rollbacks:
        sheet.column(across.cell(step), "│", "rollback")
    bad = seen.curve.steps[seen.curve.nonfinite]
    for x in set((across.dots(bad) // canvas.DOT_COLUMNS).tolist()):
        sheet.put(x, 0, marks.NONFINITE, "nonfinite")


def _marks(subject: Subject, across: Across, cursor: int) -> list[canvas.Run]:
    """The row above the plot. Where marks meet, the gravest incident is the one seen."""
    row = canvas.Canvas(across.cells, 1)
    for step, back_to in subject.rollbacks:
        start, end = across.cell(back_to), across.cell(step)
        for x in range(max(0, start), min(end, across.cells)):
            row.put(x, 0, "━", "rollback")
        row.put(start, 0, "◀", "rollback")
        row.put(end, 0, "┓", "rollback")
    if cursor >= 0:
        row.put(across.cell(cursor), 0, "▼", "cursor")
    order = list(reversed(marks.SEVERITIES))
    ranked = sorted(
        subject.incidents, key=lambda one: order.index(one[1]) if one[1] in order else -1
    )
    for onset, severity in ranked:
        row.put(across.cell(onset), 0, marks.severity_mark(severity).glyph, severity)
    return row.rows()[0]


def _steps(across: Across) -> list[canvas.Run]:
    """The axis, with round steps written into it, each centred at its place."""
    window = across.window
    row = canvas.Canvas(across.cells, 1)
    row.write(0, 0, "─" * across.cells, "axis")
    spacing = max(1, int(scale.nice_step(window.span * _CELLS_A_LABEL / across.cells)))
    taken = -1
    for step in range(-(-window.first // spacing) * spacing, window.last + 1, spacing):
        text = f" {figures.short_step(step, spacing)} "
        start = across.cell(step) - len(text) // 2
        start = min(max(start, 0), across.cells - len(text))
        if start > taken:
            row.write(start, 0, text, "label")
            taken = start + len(text)
    return row.rows()[0]
