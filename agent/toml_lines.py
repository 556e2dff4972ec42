"""The text of a TOML file, and which line of it something stands in: the parser does not tell.

>>> text = "name = 'mine'\\n[detectors.grad_spike]\\nmultiple = 3.0\\n"
>>> line_of(text, ("detectors", "grad_spike", "multiple"))
3
"""

from __future__ import annotations

import re
from pathlib import Path

from lossguard.errors import ConfigError

_HEADER = re.compile(r"\s*\[\[?\s*(?P<path>[^\]#]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*(?P<path>[A-Za-z0-9_\-\"'. ]+?)\s*=")


def read_text(path: Path, most_bytes: int) -> str:
    """All of a file that a person wrote. Raises OSError; ConfigError where it is no text, or too
    long."""
    with path.open("rb") as file:
        raw = file.read(most_bytes + 1)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    if len(raw) > most_bytes:
        raise ConfigError(f"{path}: is longer than {most_bytes // 1024} KiB")
    return text


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line (from 1) where this key or table is, else the innermost table around it.

    A search of the lines, not a parser: a key within a multi-line string may deceive it.
    """
    table: tuple[str, ...] = ()
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if (header := _HEADER.match(line)) is not None:
            here = table = _parts(header["path"])
        elif (key := _KEY.match(line)) is not None:
            here = (*table, *_parts(key["path"]))
        else:
            continue
        if here == path[: len(here)] and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return None if best is None else best[1]


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
