"""The default detectors on labelled logs of other people's runs."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from lossguard.detectors import Finding, Observation, Severity, default_detectors

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="no labelled logs in ../shared/data"),
]


def observations(path: Path) -> Iterator[Observation]:
    """The rows of a log; a blank is not measured, a nan is."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            step = int(float(row.pop("step")))
            row.pop("epoch", None)
            yield Observation(step, {name: float(value) for name, value in row.items() if value})


@cache
def replay(path: Path) -> tuple[list[Finding], list[str]]:
    """What the default detectors say about a log, and which values their bounds would veto."""
    detectors = default_detectors()
    said: list[Finding] = []
    vetoes = []
    for observation in observations(path):
        for detector in detectors:
            for metric, bound in detector.bounds().items():
                if observation.values.get(metric, bound) > bound:
                    vetoes.append(f"{metric} at step {observation.step}")
            finding = detector.update(observation)
            if finding is not None:
                said.append(finding)
    return said, vetoes


def findings(path: Path) -> list[Finding]:
    """What the default detectors say about a log."""
    return replay(path)[0]


def criticals(path: Path) -> list[Finding]:
    """The critical ones."""
    return [finding for finding in findings(path) if finding.severity is Severity.CRITICAL]


def labels(kind: str | None = None) -> list[dict[str, str]]:
    """The labels of the runs, of one kind if given."""
    with (DATA / "labels.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if kind in (None, row["kind"])]


def log(label: dict[str, str]) -> Path:
    """The log of a label."""
    return DATA / "runs" / f"{label['id']}.csv"


def held_out(label: dict[str, str]) -> bool:
    """Whether the run's group was set apart when the thresholds were chosen."""
    group = label["id"] if label["group"] in ("", "pasted") else label["group"]
    return int(hashlib.md5(group.encode()).hexdigest(), 16) % 100 >= 60


def intervals(label: dict[str, str], kind: str) -> list[tuple[int, int]]:
    """The labelled events of one kind."""
    events = [event.split(":") for event in label["intervals"].split(";") if event]
    spans = [span.split("-") for name, span in events if name == kind]
    return [(int(first), int(last)) for first, last in spans]


def test_no_healthy_pretraining_run_gets_a_critical_finding() -> None:
    """83,045 healthy steps of GPT pre-training: none critical, at most 20 in 10,000 noted."""
    logs = sorted((DATA / "healthy_extra").glob("mng_*.csv"))
    assert len(logs) >= 30
    assert {path.name: criticals(path) for path in logs if criticals(path)} == {}
    num_notes = sum(finding.end_step is None for path in logs for finding in findings(path))
    num_steps = sum(1 for path in logs for _ in observations(path))
    assert num_notes <= 20e-4 * num_steps


def test_no_run_labelled_healthy_gets_a_critical_finding() -> None:
    """42 healthy runs from 20 projects, per step and per epoch: none critical."""
    runs = labels("healthy")
    assert len(runs) >= 40
    assert {run["id"]: criticals(log(run)) for run in runs if criticals(log(run))} == {}


def test_no_healthy_loss_or_gradient_is_vetoed() -> None:
    """The reflex bounds let every value of every healthy run pass."""
    paths = [log(run) for run in labels("healthy")]
    paths += sorted((DATA / "healthy_extra").glob("mng_*.csv"))
    assert {path.name: replay(path)[1] for path in paths if replay(path)[1]} == {}


def test_many_loss_spikes_are_noted() -> None:
    """Of the spikes in the groups set apart, many of them one epoch long, a third are found."""
    found = total = 0
    for label in filter(held_out, labels()):
        for first, last in intervals(label, "loss_spike"):
            total += 1
            found += any(first - 3 <= f.onset_step <= last + 3 for f in findings(log(label)))
    assert total >= 25
    assert found >= total / 3


def test_every_nan_is_found_at_its_first_step() -> None:
    """All runs that are labelled to end in NaN, dated exactly."""
    found = total = 0
    for label in labels():
        for first, _ in intervals(label, "nan"):
            total += 1
            found += any(
                f.symptom == "nonfinite" and f.onset_step == first for f in criticals(log(label))
            )
    assert total >= 10
    assert found == total


def test_most_divergences_are_critical() -> None:
    """Of the divergences in the groups set apart, at least half are critical."""
    found = total = 0
    for label in filter(held_out, labels()):
        for first, last in intervals(label, "divergence"):
            total += 1
            slack = (last - first) // 2 + 5
            found += any(first - slack <= f.onset_step <= last for f in criticals(log(label)))
    assert total >= 8
    assert found >= 0.5 * total
