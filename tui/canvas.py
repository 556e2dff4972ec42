"""Braille rasteriser: numbers in, text out.

A cell of the terminal holds 2 by 4 braille dots. Columns and rows of dots count from the top
left. What several layers put into one cell is united, and the layer drawn last gives the cell
its style.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lossguard.tui.curve import Bools, Floats, Ints

DOT_COLUMNS = 2
DOT_ROWS = 4
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
_BRAILLE = 0x2800

Run = tuple[str, str]
"""A piece of a line and the name of its style."""


class Canvas:
    """``width`` by ``height`` cells; dots over glyphs, both with a style's name."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._dots: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
        self._codes: NDArray[np.int32] = np.full((height, width), ord(" "), np.int32)
        self._style: NDArray[np.int16] = np.zeros((height, width), np.int16)
        self._names = [""]

    @property
    def dot_width(self) -> int:
        return self.width * DOT_COLUMNS

    @property
    def dot_height(self) -> int:
        return self.height * DOT_ROWS

    @property
    def free(self) -> Bools:
        """The cells without dots and glyphs."""
        blank: Bools = (self._dots == 0) & (self._codes == ord(" "))
        return blank

    def fill(self, top: Floats, bottom: Floats, style: str, *, over: bool = False) -> None:
        """Set the dots from row ``top[x]`` to row ``bottom[x]`` of each column x; NaN sets none.

        With ``over``, the cells it reaches lose the dots they had.
        """
        rows = np.arange(self.dot_height)[:, None]
        with np.errstate(invalid="ignore"):
            mask = (rows >= np.rint(top)) & (rows <= np.rint(bottom))
        self._add(mask, style, over)

    def put(self, x: int, y: int, glyph: str, style: str) -> None:
        """One glyph in a cell, in place of its dots. Cells outside are ignored."""
        if 0 <= x < self.width and 0 <= y < self.height:
            self._codes[y, x] = ord(glyph)
            self._dots[y, x] = 0
            self._style[y, x] = self._index(style)

    def write(self, x: int, y: int, text: str, style: str) -> None:
        """Text from a cell onwards."""
        for i, char in enumerate(text):
            self.put(x + i, y, char, style)

    def column(self, x: int, glyph: str, style: str) -> None:
        """A glyph in every free cell of a column."""
        for y in np.flatnonzero(self.free[:, x]) if 0 <= x < self.width else ():
            self.put(x, int(y), glyph, style)

    def restyle(self, cells: Bools, old: str, new: str) -> None:
        """Give what is drawn in ``old`` another style in the columns ``cells``."""
        self._style[(self._style == self._index(old)) & cells[None, :]] = self._index(new)

    def rows(self) -> list[list[Run]]:
        """The lines, each as runs of one style."""
        codes = np.where(self._dots > 0, _BRAILLE + self._dots.astype(np.int32), self._codes)
        # Blanks take the style to their left, which makes fewer and longer runs.
        inked = np.where(codes != ord(" "), np.arange(self.width), 0)
        inked = np.maximum.accumulate(inked, axis=1)
        lines = []
        for line, styles in zip(codes, np.take_along_axis(self._style, inked, 1), strict=True):
            text = line.astype("<u4").tobytes().decode("utf-32-le")
            edges = [0, *(np.flatnonzero(np.diff(styles)) + 1).tolist(), self.width]
            lines.append(
                [
                    (text[start:end], self._names[int(styles[start])])
                    for start, end in pairwise(edges)
                    if end > start
                ]
            )
        return lines

    def text(self) -> str:
        """The lines without their styles."""
        return "\n".join("".join(text for text, _ in runs) for runs in self.rows())

    def _add(self, mask: Bools, style: str, over: bool = False) -> None:
        cells = mask.reshape(self.height, DOT_ROWS, self.width, DOT_COLUMNS).transpose(0, 2, 1, 3)
        bits = (cells * _BITS).sum(axis=(2, 3), dtype=np.uint8)
        self._dots = np.where(over & (bits > 0), bits, self._dots | bits)
        self._style[bits > 0] = self._index(style)

    def _index(self, style: str) -> int:
        if style not in self._names:
            self._names.append(style)
        return self._names.index(style)


def columns(
    at: Ints, low: Floats, high: Floats, last: Floats, n: int
) -> tuple[Floats, Floats, Floats]:
    """Lowest, highest and mean value of what falls into each of ``n`` columns.

    ``at`` is the column of each bucket, never falling. Extremes are never averaged away: the
    spike of one step is its column's highest. Columns that nothing falls into are interpolated
    between neighbours, unless one of these holds no finite value: that gap stays NaN.
    """
    lowest = np.full(n, np.nan)
    highest = np.full(n, np.nan)
    mean = np.full(n, np.nan)
    if len(at) == 0 or n == 0:
        return lowest, highest, mean
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    present = at[starts]
    lowest[present] = np.fmin.reduceat(low, starts)
    highest[present] = np.fmax.reduceat(high, starts)
    finite = np.isfinite(last)
    total = np.add.reduceat(np.where(finite, last, 0.0), starts)
    count = np.add.reduceat(finite.astype(np.float64), starts)
    mean[present] = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    inside = np.arange(present[0], present[-1] + 1)
    missing = np.setdiff1d(inside, present, assume_unique=True)
    if len(missing):
        # np.interp with a NaN at either end gives NaN, which is the gap that is wanted.
        between = np.interp(missing, present, mean[present])
        lowest[missing] = highest[missing] = mean[missing] = between
    return lowest, highest, mean


def smoothed(mean: Floats, half_life: float) -> Floats:
    """Each column averaged with its neighbours on both sides, so that nothing comes late; their
    weight halves every ``half_life`` [shares of the width]. Gaps stay gaps, and nothing is averaged
    across one."""
    if half_life <= 0 or len(mean) < 2:
        return mean
    keep = 0.5 ** (1.0 / max(1e-9, half_life * len(mean)))
    forth, forth_weight = _decaying(mean, keep)
    back, back_weight = (part[::-1] for part in _decaying(mean[::-1], keep))
    both: Floats = (forth + back - mean) / (forth_weight + back_weight - 1.0)
    return both


def _decaying(mean: Floats, keep: float) -> tuple[Floats, Floats]:
    """Sums with decaying weights, and those weights; both NaN in gaps."""
    sums, weights = np.full(len(mean), np.nan), np.full(len(mean), np.nan)
    total = weight = 0.0
    for i, value in enumerate(mean.tolist()):
        if value != value:
            total = weight = 0.0
            continue
        total, weight = keep * total + value, keep * weight + 1.0
        sums[i], weights[i] = total, weight
    return sums, weights


def connect(rows: Floats) -> tuple[Floats, Floats]:
    """Spans of dots that join each column's row with the row of the column before it."""
    before = np.concatenate((rows[:1], rows[:-1]))
    before = np.where(np.isnan(before), rows, before)
    middle = (rows + before) / 2
    top, bottom = np.minimum(rows, middle), np.maximum(rows, middle)
    # The other half of the way belongs to the column before.
    after = np.concatenate((rows[1:], rows[-1:]))
    after = np.where(np.isnan(after), rows, after)
    middle = (rows + after) / 2
    return np.minimum(top, middle), np.maximum(bottom, middle)
