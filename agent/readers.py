"""Reading training logs into observations: CSV for now."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lossguard.detectors import Observation
from lossguard.errors import InputError

# What people call the columns, in order of preference.
_NAMES = {
    "step": ("step", "global_step", "iteration", "iter", "_step", "trainer/global_step"),
    "epoch": ("epoch",),
    "loss": ("loss", "train_loss", "training_loss", "train/loss", "lm loss", "lm_loss"),
    "grad_norm": ("grad_norm", "gradient_norm", "gnorm", "train/grad_norm", "grad norm"),
    "lr": ("lr", "learning_rate", "train/learning_rate", "learning rate"),
    "loss_scale": ("loss_scale", "scale", "loss scale"),
    "val_loss": ("val_loss", "eval_loss", "valid_loss", "validation_loss", "eval/loss", "val/loss"),
}
_LARGEST_STEP = 2.0**53
_MISSING = ("", "na", "n/a", "none", "null", "-")


@dataclass
class Columns:
    """Which column of a file holds which metric."""

    of: dict[str, str]
    """metric -> the column's name in the file"""
    unknown: list[str] = field(default_factory=list)


@dataclass
class CsvLog:
    """A CSV file with one row a step, streamed.

    After iterating, ``skipped`` lists (line, why) of rows that could not be read, at most 1,000,
    and ``num_skipped`` counts them all.
    """

    path: Path
    columns: Columns = field(default_factory=lambda: Columns({}))
    skipped: list[tuple[int, str]] = field(default_factory=list)
    num_skipped: int = 0
    num_rows: int = 0

    def __iter__(self) -> Iterator[Observation]:
        """Raises InputError when the file cannot be opened or has no column we know."""
        try:
            with self.path.open(encoding="utf-8-sig", errors="replace") as file:
                yield from self._rows(file)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _rows(self, lines: Iterable[str]) -> Iterator[Observation]:
        place: dict[str, int] | None = None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            # Line by line, for a stray quotation mark must not swallow the rest of the file.
            try:
                row = next(csv.reader([line]))
                if place is None:
                    place = self._place(row)
                    continue
                observation = self._observation(row, place)
            except (ValueError, csv.Error) as error:
                self._skip(number, str(error))
            else:
                yield observation
        if place is None:
            raise InputError(f"{self.path}: empty, or not a CSV file")

    def _place(self, row: list[str]) -> dict[str, int]:
        header = [name.strip() for name in row]
        self.columns = _recognise(header)
        if not set(self.columns.of) & {"loss", "grad_norm", "val_loss"}:
            raise InputError(
                f"{self.path}: none of the columns ({', '.join(header[:12])}) is a loss, a "
                "gradient norm or a validation loss; expected names such as loss, train_loss, "
                "grad_norm, val_loss"
            )
        return {metric: header.index(column) for metric, column in self.columns.of.items()}

    def _observation(self, row: list[str], place: dict[str, int]) -> Observation:
        values: dict[str, float] = {}
        for metric, column in place.items():
            text = row[column].strip() if column < len(row) else ""
            if text.lower() not in _MISSING:
                values[metric] = float(text)
        step = values.pop("step", None)
        epoch = values.pop("epoch", None)
        if step is None:
            step = float(self.num_rows) if "step" not in place else None
        if step is None or not abs(step) < _LARGEST_STEP:
            raise ValueError(f"no step in {row[:4]}")
        self.num_rows += 1
        if epoch is not None and math.isfinite(epoch):
            values["epoch"] = epoch
        return Observation(step=int(step), values=values, time_s=float(self.num_rows))

    def _skip(self, line: int, why: str) -> None:
        self.num_skipped += 1
        if len(self.skipped) < 1000:
            self.skipped.append((line, why))


def _recognise(header: list[str]) -> Columns:
    lowered = {name.lower(): name for name in reversed(header)}
    found: dict[str, str] = {}
    for metric, names in _NAMES.items():
        for name in names:
            if name in lowered:
                found[metric] = lowered[name]
                break
    unknown = [name for name in header if name not in found.values()]
    return Columns(found, unknown)
