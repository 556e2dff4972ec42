"""What a reader of one format is: records out of a file, and an account of what was unreadable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lossguard.agent.logs.names import Recogniser

Record = dict[str, float]
"""Column -> value, of the columns that may hold a metric; what was not measured is absent."""
_MAX_EXAMPLES = 100
_MISSING = frozenset(("", "na", "n/a", "none", "null", "-", "--", "<na>"))


@dataclass
class Troubles:
    """What could not be read: all of it counted, the first of it with the place and the reason."""

    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    """(line or record, why), at most so many"""

    def note(self, where: int, why: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append((where, why))


class Source(ABC):
    """One log in one format.

    Iterating over ``records()`` opens the file anew. Nothing in a file raises: what cannot be read
    is in ``troubles``. Only a file that cannot be opened, or whose first bytes make it impossible
    to read, raises InputError.
    """

    format: str = ""
    """For people: "CSV"."""
    unit: ClassVar[str] = "line"
    """What ``troubles`` counts in."""
    keeps_order: ClassVar[bool] = True
    """Whether the columns come in the order in which the program had them."""
    rows_are_steps: ClassVar[bool] = False
    """Whether, without a step, a row with nothing but an evaluation counts as a step too."""

    def __init__(self, path: Path, recogniser: Recogniser) -> None:
        self.path = path
        self.recogniser = recogniser
        self.troubles = Troubles()
        self.notes: list[str] = []
        """What else people should know, in whole sentences."""
        self.share_read = 0.0
        """Of the file's bytes, for a progress bar."""

    @abstractmethod
    def records(self) -> Iterator[tuple[int, Record]]:
        """Every record with its line or number (from 1)."""

    def header(self) -> list[str]:
        """The columns, where the file names them all at its beginning."""
        return []

    def suffices(self, metrics: Collection[str]) -> bool:
        """Whether these metrics make a log of the file."""
        return bool(metrics)

    def contents(self) -> str:
        """What there is, in words, for when nothing of it is of use."""
        return "nothing that looks like a metric"

    def advice(self) -> str:
        """How to have it read, when nothing of it was recognised."""
        return (
            "expected names such as loss, train_loss, grad_norm, val_loss, or say which is which: "
            "--columns loss=NAME"
        )


def number_of(text: str) -> float | None:
    """The number that a cell holds; None where it says that there is none.

    Raises ValueError for anything else.
    """
    try:
        return float(text)
    except ValueError:
        bare = text.strip().lower()
        if bare in _MISSING:
            return None
        if bare.startswith("tensor("):
            return float(bare[7:].split(",")[0].rstrip(")"))
        raise ValueError(f"{text.strip()[:40]!r} is not a number") from None
