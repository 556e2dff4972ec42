"""The live path, driven from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lossguard.agent import backtest as module
from lossguard.agent.backtest import Backtest, backtest
from lossguard.agent.logs import LogOptions
from lossguard.agent.policy_file import shipped_policy
from lossguard.agent.policy_settings import Policy
from lossguard.agent.run import Run
from lossguard.detectors import Detector, Finding, Observation, Severity, default_detectors
from tests.support.logs import open_all
from tests.support.streams import healthy_losses

OBSERVE = shipped_policy("observe")


def write(path: Path, losses: Sequence[float], first: int = 1) -> Path:
    """A CSV with a loss a step."""
    rows = (f"{step},{loss!r}\n" for step, loss in enumerate(losses, start=first))
    path.write_text("step,loss\n" + "".join(rows))
    return path


def judged(path: Path, **options: Any) -> Backtest:
    """The backtest of a file with one log."""
    (log,) = open_all(path, LogOptions())
    return backtest(log, OBSERVE, **options)


def episodes(result: Backtest) -> set[tuple[str, int]]:
    """(symptom, onset) of each finding above info."""
    return {
        (str(f.symptom), f.onset_step) for f in result.findings if f.severity is not Severity.INFO
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A training with a leap that lasts, and a NaN."""
    calm = healthy_losses(270)
    losses = [*calm[:200], *[40.0] * 4, *calm[200:260], math.nan, *calm[260:]]
    return write(tmp_path / "log.csv", losses)


def test_a_file_gives_the_findings_that_the_live_run_would(log: Path) -> None:
    """One code path: the same episodes, dated and detected at the same steps."""
    run = Run("live", OBSERVE, default_detectors(), lambda: 0.0)
    seen: dict[tuple[str, str, int], int] = {}
    for line in log.read_text().splitlines()[1:]:
        step, loss = line.split(",")
        for found in run.observe(Observation(int(step), {"loss": float(loss)})).findings:
            key = (str(found.symptom), found.where, found.onset_step)
            seen.setdefault(key, found.detected_step)
    result = judged(log)
    assert {
        (str(f.symptom), f.where, f.onset_step): f.detected_step for f in result.findings
    } == seen
    assert {("loss_spike", 201), ("nonfinite", 265)} <= episodes(result)
    assert [i.onset_step for i in result.runs[0].incidents.all] == [
        i.onset_step for i in run.incidents.all
    ]
    assert result.num_steps == 275


def test_a_healthy_file_gives_none(tmp_path: Path) -> None:
    """The twin."""
    assert not episodes(judged(write(tmp_path / "log.csv", healthy_losses(270))))


def test_one_line_a_finding_with_the_documented_fields(log: Path) -> None:
    """Exactly these, in this order; with ``explain`` also the evidence."""
    fields = [
        "file", "symptom", "severity", "metric", "onset_step", "detected_step", "end_step",
        "score", "message",
    ]  # fmt: skip
    lines = list(judged(log).lines())
    assert all(list(line) == fields for line in lines)
    spike = next(line for line in lines if line["symptom"] == "loss_spike")
    assert (spike["onset_step"], spike["end_step"], spike["file"]) == (201, 204, str(log))
    explained = list(judged(log, explain=True).lines())
    assert all(list(line) == [*fields, "evidence"] for line in explained)
    assert [{k: v for k, v in line.items() if k != "evidence"} for line in explained] == lines


def test_the_evidence_holds_the_numbers_and_the_values_around(log: Path) -> None:
    """Before and after the onset and the detection; NaN is null."""
    result = judged(log, explain=True)
    by_symptom = {line["symptom"]: line["evidence"] for line in result.lines()}
    spike, nonfinite = by_symptom["loss_spike"], by_symptom["nonfinite"]
    assert spike["numbers"]
    assert [step for step, _ in spike["around_onset"]][:5] == [197, 198, 199, 200, 201]
    assert dict(map(tuple, spike["around_onset"]))[201] == 40.0
    detected = next(f.detected_step for f in result.findings if f.symptom.value == "loss_spike")
    steps = [step for step, _ in spike["around_detection"]]
    assert steps == list(range(detected - 4, detected + 4))
    assert dict(map(tuple, nonfinite["around_onset"]))[265] is None


def test_findings_below_a_severity_are_left_out(log: Path) -> None:
    """With their explanations."""
    result = judged(log, explain=True)
    critical = result.at_least(Severity.CRITICAL)
    assert len(critical.findings) > 0
    assert all(f.severity is Severity.CRITICAL for f in critical.findings)
    assert [e.finding for e in critical.explanations] == list(critical.findings)
    assert result.at_least(Severity.INFO).findings == result.findings


def test_a_resume_from_before_the_trouble_ends_it(tmp_path: Path) -> None:
    """The run diverges and is taken up again from a checkpoint: the detectors forget the
    divergence, its finding ends, and what follows is healthy."""
    calm = healthy_losses(400)
    rows = [(s, calm[s]) for s in range(300)] + [(s, 30.0 + s % 2) for s in range(300, 340)]
    rows += [(s, calm[s]) for s in range(250, 400)]
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{s},{loss!r}\n" for s, loss in rows))
    result = judged(path)
    found = [f for f in result.findings if f.severity is not Severity.INFO]
    assert found
    assert {f.onset_step for f in found} <= set(range(298, 303))
    assert all(f.end_step is not None and f.end_step <= 339 for f in found)


def test_runs_in_one_file_are_judged_each_by_itself(tmp_path: Path) -> None:
    """The second begins high again, which is no leap; its own trouble is its own."""
    first, second = healthy_losses(300), healthy_losses(300, seed=2)
    spiky = [*second[:200], 40.0, *second[201:]]
    for tail, expected in ((second, set()), (spiky, {("loss_spike", 200)})):
        rows = [*enumerate(first), *enumerate(tail)]
        path = tmp_path / "log.csv"
        path.write_text("step,loss\n" + "".join(f"{s},{loss!r}\n" for s, loss in rows))
        result = judged(path)
        assert episodes(result) == expected
        assert len(result.runs) == 2


def test_the_policy_chooses_the_detectors(log: Path) -> None:
    """What it disables is not found."""
    disabled = frozenset(f.symptom for f in judged(log).findings)
    (source,) = open_all(log)
    assert backtest(source, Policy(name="deaf", acts=False, disabled=disabled)).findings == []


def test_a_detector_that_cannot_go_back_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on."""

    class Stuck(Detector):
        symptom = default_detectors()[0].symptom
        inputs = ("loss",)

        def update(self, observation: Observation) -> Finding | None:
            return None

        def state(self) -> dict[str, Any]:
            return {}

        def restore(self, state: object) -> None:
            return None

        def rewind(self, step: int) -> None:
            raise RuntimeError("stuck")

    monkeypatch.setattr(module, "detectors_for", lambda policy: [Stuck()])
    path = tmp_path / "log.csv"
    steps = [*range(100), *range(50, 100)]
    path.write_text("step,loss\n" + "".join(f"{s},{2.0 + i}\n" for i, s in enumerate(steps)))
    assert judged(path).num_steps == 150
    assert "failed to go back to step 49" in caplog.text


def test_progress_is_the_share_of_the_file_that_was_read(tmp_path: Path) -> None:
    """It grows, and stays below 1 until the end."""
    shares: list[float] = []
    judged(write(tmp_path / "log.csv", [2.0 + i % 7 / 100 for i in range(20_000)]),
           progress=shares.append)  # fmt: skip
    assert shares
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
