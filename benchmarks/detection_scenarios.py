"""Logs of small trainings that were recorded while they went wrong, or did not.

A folder of CSV files, one a training: ``<symptom>__<seed>.csv`` or
``<symptom>__<scenario>__<seed>.csv``, and ``healthy__<name>__<seed>.csv``. Columns are metrics by
the names of docs/metrics.md, those of families with a slash; a blank is not measured. Where the
folder has a ``trials.csv`` (columns ``log``, ``begins``), alarms before the cause find nothing.
``python -m benchmarks.record_scenarios`` makes such a folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.detection_logs import Log
from benchmarks.detection_rules import replay
from benchmarks.detection_scoring import SLACK_ROWS, episodes
from lossguard.detectors import Family, Observation

HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded training."""

    path: Path
    symptom: str
    """What it shows, or ``healthy``."""
    begins: int
    """The step at which the cause begins; 0 where nobody wrote it down."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One rule on one recorded training."""

    symptom: str
    found: bool
    """Whether there was any alarm since the cause began (of a healthy one: any at all)."""
    named: bool
    """Whether one of them named the very symptom; only Lossguard's alarms have names."""
    num_false: int
    """Episodes before the cause began, or anywhere in a healthy one."""


def recordings(folder: Path) -> list[Recording]:
    """All that the folder holds."""
    begins = _begins(folder / "trials.csv")
    return [
        Recording(path, path.stem.split("__")[0], begins.get(path.name, begins.get(path.stem, 0)))
        for path in sorted(folder.glob("*__*.csv"))
    ]


def _begins(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["log"]: int(float(row["begins"] or 0)) for row in csv.DictReader(file)}


def judge(recording: Recording) -> dict[str, Judged]:
    """Every rule on a recorded training."""
    observations = list(_observations(recording.path))
    log = Log(id=recording.path.stem, group=recording.path.stem, kind="", observations=observations)
    healthy = recording.symptom == HEALTHY
    earliest = -1 if healthy else recording.begins - SLACK_ROWS
    judged = {}
    for rule, said in replay(log).items():
        late = [alarm for alarm in said.alarms if alarm.step >= earliest]
        early = said.alarms if healthy else [a for a in said.alarms if a.step < earliest]
        judged[rule] = Judged(
            symptom=recording.symptom,
            found=bool(late),
            named=any(alarm.name.split()[0] == recording.symptom for alarm in late),
            num_false=len(episodes(early)),
        )
    return judged


def _observations(path: Path) -> Iterator[Observation]:
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            step = int(float(row.pop("step", None) or number))
            plain = {name: float(text) for name, text in row.items() if text and "/" not in name}
            yield Observation(step, plain, time_s=float(number), families=_families(row))


def _families(row: dict[str, str]) -> dict[str, Family]:
    columns: dict[str, list[str]] = {}
    for column in row:
        if "/" in column:
            columns.setdefault(column.split("/")[0], []).append(column)
    return {
        family: Family(
            names=[column.split("/", 1)[1] for column in names],
            values=np.array([float(row[column] or 0.0) for column in names], dtype=np.float32),
            missing=np.array([not row[column] for column in names]),
        )
        for family, names in columns.items()
    }
