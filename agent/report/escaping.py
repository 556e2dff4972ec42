"""Text from elsewhere, made safe for HTML and for Markdown.

Run names, messages and stacks come from training processes. Whatever they hold is shown literally:
no markup, no control character and no change of writing direction gets through.
"""

from __future__ import annotations

import html
import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&])")
_LEADING = re.compile(r"^(\s*)(?:([-+=])|(\d+)([.)])(?=\s|$))", re.MULTILINE)
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_LONGEST = 20_000


def visible(text: str) -> str:
    """The text with a dot for what cannot be seen; line breaks stay."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST:
        return text
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
    lines = cut.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return "\n".join(
        "".join("·" if unicodedata.category(char) in _HIDDEN else char for char in line)
        for line in lines
    )


def h(text: object) -> str:
    """For HTML: between tags, and in quoted attributes."""
    return html.escape(visible(str(text)), quote=True)


def h_code(text: str) -> str:
    """For HTML, what stands between backticks as code."""
    return "".join(
        f"<code>{h(piece)}</code>" if i % 2 else h(piece) for i, piece in enumerate(text.split("`"))
    )


def m(text: object) -> str:
    """For Markdown: one line in which nothing is markup.

    >>> m("a_b <x>"), m("1. one")
    ('a\\\\_b \\\\<x\\\\>', '1\\\\. one')
    """
    line = " ".join(visible(str(text)).split())
    return _LEADING.sub(_guard, _MARKDOWN.sub(r"\\\1", line))


def _guard(found: re.Match[str]) -> str:
    space, sign, digits, dot = found.groups()
    return f"{space}\\{sign}" if sign else f"{space}{digits}\\{dot}"


def m_block(text: str) -> str:
    """For Markdown: lines as they are, in a fence that they cannot close."""
    shown = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
