"""Tables: comma, tab, semicolon or whitespace between the cells."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from lossguard.agent.logs.names import EPOCH, STEP, TIME, Recogniser, plain_name
from lossguard.agent.logs.source import Record, Source, number_of
from lossguard.agent.logs.stream import Stream
from lossguard.agent.logs.table_shape import (
    NAMES,
    Shape,
    cells_of,
    is_header,
    metric_column,
)

_SOFT = (EPOCH, TIME)
"""A cell of these that is no number is no reason to throw the row away."""
_TAG_COLUMNS = frozenset(("tag", "key", "metric", "name", "metric_name", "variable"))
_TAG_IN_FILE_NAME = re.compile(r"tag-(.+?)(?:\.csv)?(?:\.\w+)?$")


class Table(Source):
    """A table with one row a step, or, with a column of names beside one of values, one a value.

    Of the columns of several runs side by side, as Weights & Biases exports them, those of
    ``run`` are read. Rows are taken line by line: a stray quotation mark spoils one row only.
    """

    rows_are_steps: ClassVar[bool] = True

    def __init__(self, path: Path, recogniser: Recogniser, shape: Shape, run: str = "") -> None:
        super().__init__(path, recogniser)
        self.shape = shape
        self.run = run
        self.format = NAMES[shape.delimiter]

    def header(self) -> list[str]:
        """The columns by the names that records have them by."""
        names = []
        for column in self.shape.columns:
            found = metric_column(column, self.recogniser)
            if found is None:
                names.append(column)
            elif found[0] in ("", self.run):
                names.append(found[1])
        return names

    def contents(self) -> str:
        """The columns, in words."""
        columns = [column for column in self.shape.columns if column]
        if self.shape.header_line == 0:
            return f"{len(columns)} columns of numbers without names (they are called 1, 2, ...)"
        return f"none of the columns ({_some(columns)}) is a metric that is known"

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every row; blanks are missing values, and ``nan`` and ``inf`` are values."""
        delimiter, shape = self.shape.delimiter, self.shape
        place = self._placed(shape.columns)
        with Stream(self.path) as stream:
            number = 0
            for number, line in enumerate(stream.lines(), start=1):
                if number <= shape.header_line or not line or line.isspace():
                    continue
                if number % 4096 == 0:
                    self.share_read = stream.position / max(stream.size, 1)
                try:
                    cells = cells_of(line, delimiter)
                    record = place(cells)
                except (ValueError, OverflowError, csv.Error) as error:
                    again = self._header_again(line)
                    if again is not None:
                        place = again
                    elif not line.startswith("#"):
                        self.troubles.note(number, str(error))
                else:
                    yield number, record
            if stream.damage:
                self.troubles.note(number, stream.damage)

    def _header_again(self, line: str) -> Callable[[Sequence[str]], Record] | None:
        """The columns from here on, where the header is written once more."""
        try:
            cells = [cell.strip() for cell in cells_of(line.lstrip("#"), self.shape.delimiter)]
        except csv.Error:
            return None
        if not is_header(cells, self.shape.columns, self.recogniser):
            return None
        note = "the header is written more than once: something was appended to the file"
        if note not in self.notes:
            self.notes.append(note)
        return self._placed(cells)

    def _placed(self, columns: Sequence[str]) -> Callable[[Sequence[str]], Record]:
        """What makes a record of a row with these columns."""
        found = [metric_column(column, self.recogniser) for column in columns]
        plain = [plain_name(column) for column in columns]
        if "value" in plain and found[plain.index("value")] is None:
            named = next((i for i, name in enumerate(plain) if name in _TAG_COLUMNS), None)
            if named is not None:
                return self._placed_tall(columns, named, plain.index("value"))
            if (tag := self._tag_of_file()) is not None:
                found[plain.index("value")] = ("", tag)
        soft = {
            i
            for i, one in enumerate(found)
            if one and (known := self.recogniser.meaning(one[1])) and known.metric in _SOFT
        }
        wanted = [
            (i, one[1], i not in soft)
            for i, one in enumerate(found)
            if one is not None and one[0] in ("", self.run)
        ]
        comma_is_point = self.shape.delimiter == ";"

        def place(cells: Sequence[str]) -> Record:
            record: Record = {}
            width = len(cells)
            for i, column, hard in wanted:
                if i < width and (cell := cells[i]):
                    try:
                        record[column] = float(cell)
                    except ValueError:
                        value = _odd(cell, hard=hard, comma_is_point=comma_is_point)
                        if value is not None:
                            record[column] = value
            return record

        return place

    def _placed_tall(
        self, columns: Sequence[str], tag: int, value: int
    ) -> Callable[[Sequence[str]], Record]:
        """Rows of (step, name, value)."""
        steps = [
            (i, column)
            for i, column in enumerate(columns)
            if (known := self.recogniser.meaning(column)) and known.metric in (STEP, EPOCH, TIME)
        ]
        note = "one value a row, with its name beside it"
        if note not in self.notes:
            self.notes.append(note)

        def place(cells: Sequence[str]) -> Record:
            if len(cells) <= max(tag, value):
                raise ValueError("the row is cut off")
            name = cells[tag].strip()
            record: Record = {}
            if self.recogniser.meaning(name) is None:
                return record
            number = _odd(cells[value], hard=True, comma_is_point=False)
            if number is not None:
                record[name] = number
            for i, column in steps:
                step = _odd(cells[i], hard=False, comma_is_point=False) if i < len(cells) else None
                if step is not None:
                    record[column] = step
            return record

        return place

    def _tag_of_file(self) -> str | None:
        """TensorBoard's "download CSV" has the metric in the file's name only."""
        match = _TAG_IN_FILE_NAME.search(self.path.name)
        if match is None:
            return None
        tag = match[1].replace("_", "/", 1)
        return next((t for t in (match[1], tag) if self.recogniser.meaning(t) is not None), None)


def runs_in(shape: Shape, recogniser: Recogniser) -> list[str]:
    """The runs that have columns of their own in a table, in their order; [""] where none has."""
    found = (metric_column(column, recogniser) for column in shape.columns)
    named = dict.fromkeys(one[0] for one in found if one is not None and one[0])
    return list(named) or [""]


def _odd(cell: str, *, hard: bool, comma_is_point: bool) -> float | None:
    """The number in a cell that ``float`` does not take as it is."""
    try:
        if comma_is_point and "," in cell:
            cell = cell.replace(".", "").replace(",", ".")
        return number_of(cell)
    except ValueError:
        if hard:
            raise
        return None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown}, ..." if len(names) > 12 else shown
