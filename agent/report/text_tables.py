"""The steps of a run as CSV, and as JSON lines."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from typing import IO

from lossguard.agent.report.exporting import Series

HEAD = ("step", "applied", "time_s")


def write_csv(series: Series, file: IO[bytes]) -> None:
    """A row a step, a column a metric; blank where it was not measured, ``nan`` and ``inf`` where
    that was the value. Numbers are written in full."""
    metrics = series.metrics()
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEAD, *metrics])
    for chunk in series.read():
        writer.writerows(
            [row.step, row.applied, row.time_s, *(row.metrics.get(name, "") for name in metrics)]
            for row in chunk
        )
    text.detach()


def write_jsonl(series: Series, file: IO[bytes]) -> None:
    """An object a step, without what was not measured. JSON knows no NaN and no Inf: these are the
    strings ``"nan"``, ``"inf"`` and ``"-inf"``, so that every parser can read it and nothing is
    lost."""
    for chunk in series.read():
        file.write(
            "".join(
                _lines((row.step, row.applied, row.time_s, row.metrics) for row in chunk)
            ).encode()
        )


def _lines(rows: Iterable[tuple[int, int, float, dict[str, float]]]) -> Iterable[str]:
    for *head, metrics in rows:
        said = {
            name: value if math.isfinite(value) else str(value) for name, value in metrics.items()
        }
        yield (
            json.dumps({**dict(zip(HEAD, head, strict=True)), **said}, separators=(",", ":")) + "\n"
        )
