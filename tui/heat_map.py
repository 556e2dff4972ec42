"""Layers by time as lines of styled text: a bar in each cell, higher and brighter for more.

The height says the same as the colour, so that it can be read without colours too.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossguard.agent import feed
from lossguard.tui import figures, marks
from lossguard.tui.canvas import Run
from lossguard.tui.curve import Floats, Ints
from lossguard.tui.plain import fitted

LEVELS = 8
_BARS = np.array(list(" ▁▂▃▄▅▆▇█"))
SORTS = ("in order", "largest now", "largest ever", "risen most")
_FIGURE = 10


@dataclass(frozen=True, eq=False)
class Strip:
    """``values[column, row]``: NaN is not measured, Inf not finite."""

    family: str
    names: tuple[str, ...]
    steps: Ints
    values: Floats

    @property
    def now(self) -> Floats:
        """The newest value of each row."""
        known = ~np.isnan(self.values)
        last = np.where(known.any(0), len(self.values) - 1 - known[::-1].argmax(0), 0)
        newest: Floats = np.where(
            known.any(0), self.values[last, np.arange(len(self.names))], np.nan
        )
        return newest

    @property
    def most(self) -> Floats:
        """The largest finite value of each row."""
        finite = np.where(np.isinf(self.values), np.nan, self.values)
        largest: Floats = np.fmax.reduce(finite, 0)
        return largest


def decode(strip: feed.LayerStrip) -> Strip | None:
    """The arrays of a strip; None while it is empty, or where its buffers do not fit together."""
    steps = np.frombuffer(strip.steps, "<i8", len(strip.steps) // 8).astype(np.int64)
    values = np.frombuffer(strip.values, "<f4", len(strip.values) // 4).astype(np.float64)
    if not len(steps) or not strip.names or len(values) != len(steps) * len(strip.names):
        return None
    return Strip(strip.family, tuple(strip.names), steps, values.reshape(len(steps), -1))


def order(strip: Strip, sort: str, wanted: str) -> list[int]:
    """The rows to show: those with ``wanted`` in their name, sorted."""
    rows = [i for i, name in enumerate(strip.names) if wanted.lower() in name.lower()]
    if sort == SORTS[0] or not rows:
        return rows
    if sort == SORTS[1]:
        by = strip.now
    elif sort == SORTS[2]:
        by = np.where(np.isinf(strip.values).any(0), np.inf, strip.most)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            usual = np.nanmedian(np.where(np.isinf(strip.values), np.nan, strip.values), axis=0)
            by = strip.now / usual
    by = np.where(np.isnan(by), -np.inf, by)
    return sorted(rows, key=lambda i: -by[i])


def levels(strip: Strip, cells: int) -> NDArray[np.int8]:
    """By row and cell: 0 is not measured, 1 to ``LEVELS`` from small to large, -1 not finite.

    Steps become columns of equal width in steps, in which the largest value stands. The scale is
    logarithmic (linear for shares), from the second to the last but second percent of all values.
    """
    span = max(1, int(strip.steps[-1] - strip.steps[0]))
    at = ((strip.steps - strip.steps[0]) * (cells - 1) // span).astype(np.int64)
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    merged = np.fmax.reduceat(strip.values, starts, axis=0)
    # A column that nothing falls into looks like the one before it.
    places = np.searchsorted(at[starts], np.arange(cells), "right") - 1
    grid = merged[places].T
    shown = grid if strip.family.endswith("share") else _logarithm(grid)
    finite = shown[np.isfinite(shown)]
    found = np.zeros(grid.shape, np.int8)
    if len(finite):
        low, high = np.quantile(finite, (0.02, 0.98))
        scaled = (shown - low) / max(high - low, 1e-9)
        level = 1 + np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0) * LEVELS, 0, LEVELS - 1)
        found = np.where(np.isnan(grid), 0, level).astype(np.int8)
    found[np.isposinf(grid)] = -1
    return found


def _logarithm(grid: Floats) -> Floats:
    """Zero and less lie at the bottom, with the smallest."""
    positive = grid[(grid > 0) & np.isfinite(grid)]
    if not len(positive):
        return grid
    with np.errstate(invalid="ignore"):
        logs: Floats = np.log10(np.maximum(grid, positive.min()))
    return logs


def lines(strip: Strip, rows: list[int], cursor: int, width: int) -> list[list[Run]]:
    """A line a row: its name, its bars, its newest and its largest value."""
    name_room, cells = _rooms(strip, rows, width)
    grid = levels(strip, cells)
    now, most = strip.now, strip.most
    out = []
    for i in rows:
        picked = "cursor" if i == cursor else "name"
        line: list[Run] = [("▸ " if i == cursor else "  ", picked)]
        line.append((fitted(strip.names[i], name_room) + " ", picked))
        line += _bars(grid[i])
        style = "bad" if np.isinf(now[i]) else picked
        line.append((figures.value(_known(now[i])).rjust(_FIGURE), style))
        line.append((figures.value(_known(most[i])).rjust(_FIGURE) + " ", "dim"))
        out.append(line)
    return out


def _rooms(strip: Strip, rows: list[int], width: int) -> tuple[int, int]:
    """Cells for the names, and for the bars."""
    names = min(max((len(strip.names[i]) for i in rows), default=8), max(12, width // 3))
    return names, max(8, width - names - 2 * _FIGURE - 4)


def _known(number: float) -> float | None:
    return None if number != number else float(number)


def _bars(row: NDArray[np.int8]) -> list[Run]:
    edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
    runs: list[Run] = []
    for start, end in itertools.pairwise(edges):
        level = int(row[start])
        glyph = marks.NONFINITE if level < 0 else str(_BARS[level])
        runs.append((glyph * (end - start), "bad" if level < 0 else f"level-{level}"))
    return runs


def heading(strip: Strip, rows: list[int], width: int) -> str:
    """The names of the columns."""
    name_room, cells = _rooms(strip, rows, width)
    first, last = figures.short_step(int(strip.steps[0])), figures.short_step(int(strip.steps[-1]))
    axis = f"step {first} ".ljust(max(0, cells - len(last)), "─") + last
    text = "  " + " " * (name_room + 1) + axis[:cells]
    return text + "now".rjust(_FIGURE) + "largest".rjust(_FIGURE)
