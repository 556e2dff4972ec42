"""What an incident leaves behind for a person to open later: one folder, plain files.

``incident.json``, ``steps.csv`` (the last steps of every metric), ``layers.csv`` (the per-layer
metrics of the newest steps), ``environment.json`` (host, versions, script, policy, how it trains),
``stacks.txt``, ``traceback.txt``; and of each rank, by itself, ``rank0/step-...``: the random
generators and, where the run keeps them, the batch (``lossguard.load_snapshot`` reads it).
"""

from __future__ import annotations

import csv
import glob
import io
import json
import logging
import os
import shutil
import tarfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from lossguard.agent.feed import IncidentLine
from lossguard.detectors import Observation
from lossguard.failpoints import reach
from lossguard.probes import wire

log = logging.getLogger(__name__)

_STEPS = 256
_LAYERED = 16
_MOST_TABLES = 64
"""Incidents of a run of which more than the words are kept."""
_LAST = "last"
"""A training that fails writes under it: the incident has no number yet."""
STACKS = "stacks.txt"


class Evidence:
    """The newest observations of a run, and the folders of its incidents. Bounded memory."""

    def __init__(self, run: str, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._num_tables = 0
        self._steps: deque[Observation] = deque(maxlen=_STEPS)

    def note(self, observation: Observation) -> None:
        """Keep it; of all but the newest few only the plain metrics."""
        if len(self._steps) >= _LAYERED:
            old = self._steps[-_LAYERED]
            if old.families:
                self._steps[-_LAYERED] = _plain(old)
        self._steps.append(observation)

    def folder_of(self, incident: str) -> Path:
        """Where its files lie; made by whoever writes the first."""
        return self._folder / incident

    def has(self, incident: str) -> bool:
        """Whether it has been written before."""
        return (self.folder_of(incident) / "incident.json").exists()

    def write(self, incident: IncidentLine, hello: wire.Hello) -> bool:
        """What is known now; whether that was more than words. A full disk is said in the log, and
        no more."""
        self.put(incident.id, "incident.json", _json(incident))
        seen = (self.folder_of(incident.id) / "environment.json").exists()
        if self._num_tables >= _MOST_TABLES or seen:
            return False
        self._num_tables += 1
        self.put(incident.id, "environment.json", _json(hello))
        self.put(incident.id, "steps.csv", steps_table(self._steps))
        self.put(incident.id, "layers.csv", layers_table(self._steps))
        return True

    def take_last(self, incident: str) -> None:
        """What the ranks have left of a training that failed belongs to this incident."""
        try:
            for left in self.folder_of(f"{self._run}.{_LAST}").glob("rank*"):
                if not (there := self.folder_of(incident) / left.name).exists():
                    left.rename(there)
        except OSError as error:
            log.warning("what %s left could not be put in its place: %s", self._run, error)

    def put(self, incident: str, name: str, text: str) -> None:
        """One more file of an incident. A full disk is said in the log, and no more."""
        folder = self.folder_of(incident)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _put(folder / name, text)
        except OSError as error:
            log.warning("the evidence of %s could not be written: %s", incident, error)

    def forget(self) -> None:
        """Remove the folders of this run's incidents."""
        for folder in self._folder.glob(f"{glob.escape(self._run)}.*"):
            shutil.rmtree(folder, ignore_errors=True)


def steps_table(steps: Iterable[Observation]) -> str:
    """A row a step, a column a metric; blank where it was not measured."""
    rows = list(steps)
    names = list(dict.fromkeys(name for step in rows for name in step.values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "applied", "time_s", *names])
    for step in rows:
        values = (step.values.get(name) for name in names)
        cells = ("" if value is None else f"{value:.9g}" for value in values)
        writer.writerow([step.step, step.applied, f"{step.time_s:.6f}", *cells])
    return out.getvalue()


def layers_table(steps: Iterable[Observation]) -> str:
    """Of each layer and metric the newest value, the median of those before, and their ratio; the
    layers that have changed most come first."""
    past: dict[tuple[str, str], list[float]] = {}
    for step in steps:
        for kind, family in step.families.items():
            for name, value, missing in zip(
                family.names, family.values, family.missing, strict=True
            ):
                if not missing:
                    past.setdefault((kind, name), []).append(float(value))
    rows = [(*key, values[-1], _typical(values[:-1])) for key, values in past.items()]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["metric", "layer", "newest", "median_before", "ratio"])
    for kind, name, newest, before in sorted(rows, key=_change, reverse=True):
        ratio = newest / before if before else float("nan")
        writer.writerow([kind, name, f"{newest:.9g}", f"{before:.9g}", f"{ratio:.4g}"])
    return out.getvalue()


def export(folder: Path, archive: Path) -> Path:
    """One file to send to a colleague. Raises OSError."""
    with tarfile.open(archive, "w:gz") as out:
        out.add(folder, arcname=folder.name)
    return archive


def _typical(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else 0.0


def _change(row: tuple[str, str, float, float]) -> float:
    _, _, newest, before = row
    if not np.isfinite(newest):
        return float("inf")
    if before <= 0.0 or newest <= 0.0:
        return 0.0
    return float(abs(np.log(newest / before)))


def _plain(observation: Observation) -> Observation:
    return Observation(
        observation.step, observation.values, observation.time_s, observation.applied
    )


def _json(value: msgspec.Struct) -> str:
    return json.dumps(msgspec.to_builtins(value), indent=1, default=str) + "\n"


def _put(path: Path, text: str) -> None:
    """Whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    reach("evidence.half_put")
    os.replace(new, path)
