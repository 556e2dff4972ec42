"""What a log turned out to be and how it was read, for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lossguard.agent.logs.source import Troubles
from lossguard.agent.logs.steps import Turns

_OUT_OF_ORDER = 100
"""Steps that go back so often are no restarts."""


@dataclass(frozen=True)
class Account:
    """What a file turned out to be, for people; can be sent to another process."""

    name: str
    format: str
    columns: dict[str, str]
    """metric -> column"""
    families: dict[str, int]
    """family -> number of layers"""
    ignored: list[str]
    num_rows: int
    unit: str
    troubles: Troubles
    turns: Turns
    notes: list[str]
    steps_from: str = "column"
    """``column``, ``epochs`` or ``rows``"""

    def recognised(self) -> str:
        """Format, size, and which column is which, in one line."""
        return f"{self.format}, {_many(self.num_rows, self.unit)}; {self.mapping()}"

    def mapping(self) -> str:
        """Which column is which; a column that has the metric's own name stands by it alone."""
        pairs = [
            metric if metric == column else f"{metric}={column}"
            for metric, column in self.columns.items()
        ]
        pairs += [f"{family}/* ({count} layers)" for family, count in self.families.items()]
        line = f"recognised {', '.join(pairs)}"
        if self.ignored:
            line += f"; ignored {some_of(self.ignored)}"
        return line

    def remarks(self) -> list[str]:
        """What a person should know about how the file was read, one sentence each."""
        turns = self.turns
        said = list(self.notes)
        if self.steps_from == "rows":
            said.append("there is no step column: rows are counted from 0")
        elif self.steps_from == "epochs":
            said.append("there is no step column: epochs are the steps")
        if turns.resumes or turns.restarts:
            said.extend(_going_back(turns, self.unit))
        if turns.counted_on:
            said.append(
                f"the steps start again {_times(turns.counted_on)} within a run (every epoch?): "
                "they are counted on"
            )
        if turns.elsewhere:
            said.append(
                f"{_many(turns.elsewhere, 'evaluation')} with a step count of their own: taken at "
                "the training step before"
            )
        if self.troubles.count:
            where, why = self.troubles.examples[0]
            said.append(
                f"{_many(self.troubles.count, self.unit)} could not be read, the first is "
                f"{self.unit} {where}: {why}"
            )
        return said


def _going_back(turns: Turns, unit: str) -> Iterator[str]:
    where, before, after = turns.first or (0, 0, 0)
    first = f"the first time from {before} to {after}, in {unit} {where}"
    if turns.restarts:
        yield (
            f"the steps start from the beginning again {_times(turns.restarts)} ({first}): several "
            "runs in one file, each is judged by itself"
        )
        first = "the same file"
    if turns.resumes > _OUT_OF_ORDER:
        yield f"the steps go back {_times(turns.resumes)} ({first}): the rows are out of order"
    elif turns.resumes:
        yield (
            f"the steps go back {_times(turns.resumes)} ({first}): a resume; what came after the "
            "checkpoint is forgotten"
        )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def some_of(names: list[str]) -> str:
    """The first few of them, and how many more there are."""
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
