"""One log of one run: observations, streamed, and an account of what was recognised."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lossguard.agent.logs.account import Account, some_of
from lossguard.agent.logs.assembly import Assembly
from lossguard.agent.logs.columns import Columns, choose
from lossguard.agent.logs.names import EPOCH, STEP
from lossguard.agent.logs.source import Record, Source, Troubles
from lossguard.agent.logs.steps import Turn, Turns
from lossguard.detectors import Observation
from lossguard.errors import InputError

_HEAD = 256
"""Records that are looked at before it is decided which column is which."""


class NoMetrics(InputError):
    """A file that can be read and has nothing in it to judge."""


@dataclass(frozen=True)
class LogOptions:
    """What the user says about the files."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """metric -> the column that holds it"""
    pattern: str | None = None
    """Regular expression with named groups for the lines of a text log."""


class Log:
    """Iterate over it once, or again: every time the file is read from its beginning.

    Memory is constant: one record, and the first 256 until it is decided which column is which.
    """

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.source = source
        self.columns = Columns()
        self._assembly: Assembly | None = None

    def __iter__(self) -> Iterator[Observation]:
        """Raises InputError when the file cannot be opened or holds nothing of use."""
        source = self.source
        source.troubles = Troubles()
        records = iter(source.records())
        head = list(itertools.islice(records, _HEAD))
        said = source.recogniser.said
        self.columns = choose(
            source.header(),
            [record for _, record in head],
            source.recogniser,
            keeps_order=source.keeps_order,
        )
        self._check(head, said)
        self._assembly = assembly = Assembly(self.columns, source.recogniser, source.troubles)
        if STEP not in self.columns.of:
            assembly.epoch_is_step = self._epochs_count(head)
            assembly.count_rows = not assembly.epoch_is_step
            assembly.count_evaluations = source.rows_are_steps
        yield from assembly.observations(itertools.chain(head, records))
        if assembly.num_observations == 0:
            raise InputError(f"{self.name}: {self._nothing_read()}")

    def _check(self, head: list[tuple[int, Record]], said: Mapping[str, str]) -> None:
        columns = self.columns
        header = self.source.header()
        there = {*header, *itertools.chain.from_iterable(record for _, record in head)}
        missing = {metric: column for metric, column in said.items() if column not in there}
        if missing and (header or 0 < len(head) < _HEAD):
            metric, column = next(iter(missing.items()))
            raise InputError(
                f"{self.name}: there is no column {column!r} for {metric}; "
                f"there are {some_of([*columns.of.values(), *columns.unknown])}"
            )
        if self.source.suffices(columns.metrics):
            return
        if not head and self.source.troubles.count and not header:
            # Not one record, and reasons for that.
            raise InputError(f"{self.name}: {self._nothing_read()}")
        source = self.source
        raise NoMetrics(
            f"{self.name}: read as {source.format}, but {source.contents()}; {source.advice()}"
        )

    def _nothing_read(self) -> str:
        troubles = self.source.troubles
        if not troubles.examples:
            return "there is a header, but not one row" if self.source.header() else "empty"
        where, why = troubles.examples[0]
        return f"not one {self.source.unit} could be read; {self.source.unit} {where}: {why}"

    def _epochs_count(self, head: list[tuple[int, Record]]) -> bool:
        """Whether the epochs can stand in for steps: whole, and one row each."""
        column = self.columns.of.get(EPOCH)
        training = [c for c, m in self.columns.plain.items() if m in ("loss", "grad_norm")]
        rows = [r for _, r in head if not training or any(c in r for c in training)]
        epochs = [r[column] for r in rows if column is not None and column in r]
        whole = all(epoch == epoch // 1 for epoch in epochs)
        rising = all(a < b for a, b in itertools.pairwise(epochs))
        return bool(epochs) and len(epochs) == len(rows) and whole and rising

    @property
    def turn(self) -> Turn:
        """What the step of the observation that came last means for the ones before it."""
        return self._assembly.turn if self._assembly is not None else Turn.ON

    def account(self) -> Account:
        """What was recognised and read so far."""
        assembly, source = self._assembly, self.source
        return Account(
            name=self.name,
            format=source.format,
            columns=dict(self.columns.of),
            families={family: len(names) for family, names in self.columns.families.items()},
            ignored=list(self.columns.unknown),
            num_rows=assembly.num_rows if assembly is not None else 0,
            unit=source.unit,
            troubles=source.troubles,
            turns=assembly.steps.turns if assembly is not None else Turns(),
            notes=list(source.notes),
            steps_from=self._steps_from(),
        )

    def _steps_from(self) -> str:
        if STEP in self.columns.of or self._assembly is None:
            return "column"
        return "epochs" if self._assembly.epoch_is_step else "rows"
