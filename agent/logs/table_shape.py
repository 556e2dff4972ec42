"""How a table is written: its delimiter and its header, by a look at its first lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

from lossguard.agent.logs.names import Recogniser
from lossguard.agent.logs.source import number_of

SPACES = " "
_DELIMITERS = (",", "\t", ";", "|", SPACES)
NAMES = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "table with |", " ": "columns"}
_LINES = 50
"""Lines that a header is looked for in."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How to split a line, and where the columns get their names from."""

    delimiter: str
    header_line: int
    """Counted from 1; 0 where there is none and the columns are called 1, 2, 3."""
    columns: tuple[str, ...]


def cells_of(line: str, delimiter: str) -> list[str]:
    """The cells of one line. Raises csv.Error where quotation marks make no sense."""
    if delimiter == SPACES:
        return line.split()
    if '"' not in line:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter))


def shape_of(lines: Sequence[str], recogniser: Recogniser, *, sure: bool) -> Shape | None:
    """The shape of the table that these lines begin, or None where they are no table.

    Where the file is ``sure`` to be a table, by its suffix, its column names may be any.
    """
    for number, line in enumerate(lines[:_LINES], start=1):
        if not line.strip():
            continue
        after = next((other for other in lines[number:] if other.strip()), None)
        is_comment = line.startswith("#")
        shape = _header(line, number, after, recogniser, sure=sure and not is_comment)
        if shape is not None:
            return shape
        if not is_comment:
            return _headless(line, after, recogniser)
    return None


def is_header(cells: Sequence[str], columns: Sequence[str], recogniser: Recogniser) -> bool:
    """Whether a row further down names the columns once more, be they the same or others."""
    known = sum(1 for cell in cells if metric_column(cell, recogniser) is not None)
    if any(_is_number(cell) for cell in cells):
        return False
    return known > 1 or (known == 1 and len(cells) == len(columns))


def _header(
    line: str, number: int, after: str | None, recogniser: Recogniser, *, sure: bool
) -> Shape | None:
    best: tuple[int, int, Shape] | None = None
    for delimiter in _DELIMITERS:
        names = _names(line, delimiter)
        if names is None or not _may_be_names(names, delimiter):
            continue
        known = sum(1 for name in names if metric_column(name, recogniser) is not None)
        if not known and delimiter == SPACES:
            continue
        below = None if after is None else _names(after, delimiter)
        if not _fits(names, below, delimiter, known=known, sure=sure):
            continue
        rank = (known, len(names) if delimiter != SPACES else 0)
        if best is None or rank > best[:2]:
            best = (*rank, Shape(delimiter, number, tuple(names)))
    return None if best is None else best[2]


def _fits(
    names: list[str], below: list[str] | None, delimiter: str, *, known: int, sure: bool
) -> bool:
    """Whether the next row looks like one of a table with these columns."""
    if len(names) == 1 and not (known or sure):
        return False
    if below is None:
        return sure or (known > 1 and delimiter != SPACES)
    numbers = sum(1 for cell in below if _is_number(cell))
    if delimiter == SPACES:
        return len(below) == len(names) and 2 * numbers >= len(names)
    return sure or (numbers > 0 and (len(below) == len(names) or known > 1))


def _headless(line: str, after: str | None, recogniser: Recogniser) -> Shape | None:
    """Rows of nothing but numbers, whose columns are called 1, 2, 3."""
    for delimiter in _DELIMITERS:
        rows = [_names(row, delimiter) for row in (line, after) if row is not None]
        first = rows[0]
        if first is None or any(row is None or len(row) != len(first) for row in rows):
            continue
        if all(_is_number(cell) or not cell for row in rows if row for cell in row):
            return Shape(delimiter, 0, tuple(str(i) for i in range(1, len(first) + 1)))
    return None


def _may_be_names(cells: list[str], delimiter: str) -> bool:
    """No header is mostly numbers; running text with one number in it is no header either."""
    numbers = sum(1 for cell in cells if _is_number(cell))
    return numbers == 0 if delimiter == SPACES else 2 * numbers < len(cells)


def _names(line: str, delimiter: str) -> list[str] | None:
    try:
        names = [cell.strip() for cell in cells_of(line.lstrip("#"), delimiter)]
    except csv.Error:
        return None
    return names if any(names) else None


def _is_number(cell: str) -> bool:
    try:
        return number_of(cell) is not None
    except ValueError:
        return False


def metric_column(column: str, recogniser: Recogniser) -> tuple[str, str] | None:
    """(run, column without the run) of a column that may hold a metric.

    Weights & Biases exports ``<run> - train/loss``, and ``..__MIN`` and ``..__MAX`` beside it.
    """
    if recogniser.meaning(column) is not None:
        return "", column
    run, dash, name = column.rpartition(" - ")
    if dash and recogniser.meaning(name) is not None:
        return run, name
    return None
