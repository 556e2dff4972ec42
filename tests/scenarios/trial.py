"""One training of the zoo, watched and judged; what is kept of it."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lossguard.agent.policy_reference import as_toml
from lossguard.detectors import Finding, Observation, Symptom
from tests.scenarios.catalogue import NORMAL, SCENARIOS
from tests.scenarios.harness import Record, give_memory_back, watch
from tests.scenarios.judging import Verdict, judge, told
from tests.scenarios.scenario import Scenario

_ANOTHER = 1000
FIRST_COLUMNS = ("loss", "grad_norm", "lr", "loss_scale", "val_loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Which training: a scenario (or its healthy twin) or a piece of normal life, and the seed."""

    name: str
    seed: int
    healthy: bool

    @property
    def log_name(self) -> str:
        """Of its CSV file: what it shows, the scenario, the seed."""
        shows = "healthy" if self.healthy else str(SCENARIOS[self.name].symptom)
        return f"{shows}__{self.name}__{self.seed}.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of it."""

    trial: Trial
    begins: int
    num_steps: int
    cpu_s: float
    """Processor time that it took [s]."""
    said: tuple[Finding, ...]
    """Warnings and criticals; of a scenario's own symptom, what it says is enough."""
    verdict: Verdict | None
    """None where nothing was to be found."""

    @property
    def as_it_should(self) -> bool:
        """Found in time as the right symptom and not before, or left alone."""
        if self.verdict is None:
            return not self.said
        return self.verdict.as_right and not self.verdict.too_early


def attempt(trial: Trial, log_folder: Path | None = None) -> Result:
    """Train, watch, judge; keep the metrics as a log where a folder is given."""
    started = time.process_time()
    if trial.name in NORMAL:
        record = watch(partial(NORMAL[trial.name].train, trial.seed))
        said, verdict = tuple(record.said()), None
    else:
        scenario = SCENARIOS[trial.name]
        if scenario.symptom is Symptom.MEMORY_GROWTH:
            give_memory_back()
        policy = _knowing_a_good_run(scenario, trial.seed) if scenario.against_a_good_run else None
        record = watch(partial(scenario.train, trial.seed, healthy=trial.healthy), policy)
        said = told(scenario, record)
        verdict = None if trial.healthy else judge(scenario, record)
    if log_folder is not None:
        write_log(record, log_folder / trial.log_name)
    return Result(
        trial=trial,
        begins=record.begins,
        num_steps=len(record.observations),
        cpu_s=time.process_time() - started,
        said=said,
        verdict=verdict,
    )


def _knowing_a_good_run(scenario: Scenario, seed: int) -> str:
    """A policy with the loss of a healthy training of another seed, as a user would write it."""
    good = watch(partial(scenario.train, seed + _ANOTHER, healthy=True))
    with tempfile.TemporaryDirectory(prefix="lg-") as folder:
        log = Path(folder) / "good.csv"
        write_log(good, log)
        return as_toml(str(log))


def write_log(record: Record, path: Path) -> None:
    """One row a step, one column a metric, those of families with a slash (docs/metrics.md).

    A blank was not measured; nan and inf were.
    """
    rows = [dict(_metrics(observation)) for observation in record.observations]
    measured = dict.fromkeys(name for row in rows for name in row)
    columns = [*FIRST_COLUMNS, *(name for name in measured if name not in FIRST_COLUMNS)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", *columns])
        for observation, row in zip(record.observations, rows, strict=True):
            cells = (f"{row[name]:.9g}" if name in row else "" for name in columns)
            writer.writerow([observation.step, *cells])


def _metrics(observation: Observation) -> Iterator[tuple[str, float]]:
    yield from observation.values.items()
    for kind, family in observation.families.items():
        for name, value, missing in zip(family.names, family.values, family.missing, strict=True):
            if not missing:
                yield f"{kind}/{name}", float(value)
