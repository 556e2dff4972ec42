"""Text from elsewhere, made safe to put on a terminal.

Run names and messages come from training processes. Whatever they hold is shown literally: no
markup, no escape sequence, no line break and no change of writing direction gets through.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import cell_len, set_cell_size

INVISIBLE = "·"
_MAX_COMBINING = 2


@lru_cache(maxsize=4096)
def plain(text: str, width: int = 0) -> str:
    """One visible line, cut to ``width`` [cells] with an ellipsis; 0 leaves its length alone."""
    if width > 0:
        text = text[: 4 * width + 8]
    shown: list[str] = []
    combining = 0
    for char in text:
        category = unicodedata.category(char)
        if category in ("Mn", "Me"):
            combining += 1
            if combining <= _MAX_COMBINING and not 0xFE00 <= ord(char) <= 0xFE0F:
                shown.append(char)
            continue
        combining = 0
        shown.append(_visible(char, category))
    line = "".join(shown)
    if width > 0 and cell_len(line) > width:
        return set_cell_size(line, width - 1) + "…"
    return line


@lru_cache(maxsize=4096)
def fitted(text: str, width: int) -> str:
    """``plain``, padded to exactly ``width`` [cells]."""
    return set_cell_size(plain(text, width), width) if width > 0 else ""


def _visible(char: str, category: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if category == "Zs":
        return " "
    if category[0] == "C" or category in ("Zl", "Zp"):
        return INVISIBLE
    return char
