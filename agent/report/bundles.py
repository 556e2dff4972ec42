"""What an incident left in its folder, as far as a report quotes it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\Z")
_LAYERS = 8
_MOST_BYTES = 64 * 1024
_LINES = 40
_TEXTS = (("traceback.txt", "Traceback"), ("stacks.txt", "Stacks"))


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a text of an incident; a traceback's end."""

    title: str
    text: str
    lines_left_out: int


@dataclass(frozen=True)
class Bundle:
    """``layers`` has rows of (metric, layer, newest, median before, ratio), most changed first."""

    folder: str = ""
    layers: tuple[tuple[str, ...], ...] = ()
    texts: tuple[Excerpt, ...] = ()


def read_bundle(incidents: Path, incident: str) -> Bundle:
    """Empty where there is none: incidents that are only informative leave none."""
    folder = incidents / incident
    if not _SAFE.match(incident) or not folder.is_dir():
        return Bundle()
    return Bundle(str(folder), tuple(_layers(folder / "layers.csv")), tuple(_texts(folder)))


def _layers(path: Path) -> Iterator[tuple[str, ...]]:
    head = ("metric", "layer", "newest", "median_before", "ratio")
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for _, row in zip(range(_LAYERS), csv.DictReader(file), strict=False):
                yield tuple(row.get(name) or "" for name in head)
    except (OSError, csv.Error):
        return


def _texts(folder: Path) -> Iterator[Excerpt]:
    for name, title in _TEXTS:
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as file:
                lines = file.read(_MOST_BYTES).splitlines()
        except OSError:
            continue
        # What went wrong stands at the end of a traceback, and at the beginning of stacks.
        kept = lines[-_LINES:] if name == "traceback.txt" else lines[:_LINES]
        yield Excerpt(title, "\n".join(kept), len(lines) - len(kept))
