"""Every step of a run into a file, in memory that does not grow with the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lossguard.agent.report.reading import RunReader, StepRow
from lossguard.agent.report.writing import file_name, progress_bar, put, require_here
from lossguard.errors import InputError, UsageError
from lossguard.home import Home
from lossguard.probes import wire

Rows = Iterator[list[StepRow]]


@dataclass(frozen=True)
class Series:
    """What is to be written: ``read()`` goes through all steps, from the first on each time."""

    hello: wire.Hello
    read: Callable[[], Rows]

    def metrics(self) -> list[str]:
        """All that were ever measured, in the order of their first time."""
        found: dict[str, None] = {}
        for chunk in self.read():
            for row in chunk:
                found.update(dict.fromkeys(row.metrics))
        return list(found)


Writer = Callable[[Series, IO[bytes]], None]


def _writers() -> dict[str, Writer]:
    from lossguard.agent.report import event_file, parquet, text_tables

    return {
        "csv": text_tables.write_csv,
        "jsonl": text_tables.write_jsonl,
        "parquet": parquet.write_parquet,
        "tensorboard": event_file.write_events,
    }


def export_run(home: Home, run: str, form: str | None, output: str | None) -> str:
    """Write it; a line about what was written. Raises LossguardError."""
    require_here(home)
    form = form or _form_of(output)
    write = _writers()[form]
    with RunReader(home.database_path) as reader, progress_bar("exporting") as tell:
        hello = reader.find(run).hello
        there = reader.extent(hello.run)
        if there is None:
            raise InputError(f"{hello.run} has no steps: nothing of it has been measured")
        count = 0

        def read() -> Rows:
            nonlocal count
            count = 0
            reader.damaged.pop("steps", None)
            for chunk in reader.steps(hello.run, there.last):
                yield chunk
                count += len(chunk)
                tell(count / there.num)

        path = _path(output, form, hello)
        if path is None:
            write(Series(hello, read), sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            put(path, lambda file: write(Series(hello, read), file))
        damaged = reader.damaged["steps"]
    left_out = f"; {damaged:,} could not be read" if damaged else ""
    return f"{path or 'stdout'}: {hello.name}, {count:,} steps{left_out}"


def _form_of(output: str | None) -> str:
    if output is None:
        return "csv"
    name = Path(output).name.lower()
    forms = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    form = "tensorboard" if "tfevents" in name else forms.get(Path(name).suffix)
    if form is None:
        raise UsageError(f"-o {output!r}: say --format parquet, csv, jsonl or tensorboard")
    return form


def _path(output: str | None, form: str, hello: wire.Hello) -> Path | None:
    """None is stdout. TensorBoard looks for files with ``tfevents`` in their names."""
    if output == "-":
        return None
    name = file_name(hello.run)
    name = (
        f"events.out.tfevents.{hello.started_s:.0f}.{name}"
        if form == "tensorboard"
        else f"{name}.{form}"
    )
    if output is None:
        return Path(name)
    return Path(output) / name if output.endswith(os.sep) or Path(output).is_dir() else Path(output)
