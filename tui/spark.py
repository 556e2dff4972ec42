"""A curve in a few cells of text."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lossguard.tui import canvas
from lossguard.tui.curve import Floats


@lru_cache(maxsize=1024)
def spark(pairs: bytes, width: int, height: int) -> tuple[str, ...]:
    """Lines of braille for pairs of lowest and highest value (float32); blank without any.

    The top is a little above what is usual: one spike must not make all else flat, and reaches
    the top all the same.
    """
    values = np.frombuffer(pairs, "<f4", len(pairs) // 8 * 2).astype(np.float64).reshape(-1, 2)
    low, high = values[:, 0], values[:, 1]
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.any() or width <= 0:
        return (" " * max(0, width),) * height
    sheet = canvas.Canvas(width, height)
    bottom = float(low[finite].min())
    top = float(np.quantile(high[finite], 0.9))
    top += 0.15 * (top - bottom) or 1.0
    at = (np.arange(len(values)) * (sheet.dot_width - 1) / max(1, len(values) - 1)).astype(int)
    lowest, highest, _ = canvas.columns(at, low, high, high, sheet.dot_width)

    def rows(numbers: Floats) -> Floats:
        placed: Floats = np.clip((numbers - bottom) / (top - bottom), 0, 1)
        return (1 - placed) * (sheet.dot_height - 1)

    sheet.fill(rows(highest), rows(lowest), "")
    return tuple(sheet.text().split("\n"))
