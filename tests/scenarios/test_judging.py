"""What counts as found, and what is kept of a training."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from lossguard.detectors import Family, Finding, Observation, Severity, Symptom
from tests.scenarios.harness import Record
from tests.scenarios.judging import judge, told
from tests.scenarios.scenario import Scenario
from tests.scenarios.trial import write_log


def train(seed: int, *, healthy: bool) -> int:
    """Never run here."""
    raise NotImplementedError


SCENARIO = Scenario(
    symptom=Symptom.PLATEAU, cause="", within=50, least=Severity.WARNING, train=train
)


def finding(symptom: Symptom, step: int, severity: Severity = Severity.WARNING) -> Finding:
    """Found at this step."""
    return Finding(
        symptom=symptom,
        severity=severity,
        metric="loss",
        onset_step=step,
        detected_step=step,
        score=2.0,
        message="",
    )


def record(*findings: Finding) -> Record:
    """A training whose trouble begins at step 100."""
    return Record(findings=list(findings), begins=100)


def test_in_time_and_by_its_name() -> None:
    """At the last step that is allowed; what else was said is named."""
    verdict = judge(
        SCENARIO, record(finding(Symptom.LOSS_SPIKE, 120), finding(Symptom.PLATEAU, 150))
    )
    assert (verdict.as_right, verdict.in_time, verdict.delay) == (True, True, 50)
    assert verdict.also == ("loss_spike",)


def test_too_late_is_not_found() -> None:
    """A step later the delay is known, and it is no success."""
    verdict = judge(SCENARIO, record(finding(Symptom.PLATEAU, 151)))
    assert (verdict.as_right, verdict.in_time, verdict.delay) == (False, False, 51)


def test_before_there_is_anything_to_find_it_is_a_false_alarm() -> None:
    """Even of the right symptom."""
    verdict = judge(SCENARIO, record(finding(Symptom.PLATEAU, 99)))
    assert (verdict.as_right, verdict.delay, len(verdict.too_early)) == (False, None, 1)


def test_the_end_of_an_episode_is_no_finding() -> None:
    """It comes with the same symptom, in time, and tells of nothing new."""
    end = replace(finding(Symptom.PLATEAU, 120), end_step=119)
    assert not judge(SCENARIO, record(end)).in_time


def test_an_info_counts_only_where_the_scenario_says_so() -> None:
    """And then only of its own symptom."""
    lines = [finding(s, 120, Severity.INFO) for s in (Symptom.PLATEAU, Symptom.CLIPPING)]
    assert not told(SCENARIO, record(*lines))
    assert told(replace(SCENARIO, least=Severity.INFO), record(*lines)) == (lines[0],)


def test_a_log_holds_every_metric_and_tells_nan_from_not_measured(tmp_path: Path) -> None:
    """Plain metrics by their names, families with a slash; blanks were not measured."""
    values = np.array([0.25, 9.0], np.float32)
    layers = Family(("a", "b"), values, np.array([False, True]))
    observations = [
        Observation(1, {"loss": 0.5}),
        Observation(2, {"loss": float("nan"), "rss": 1e9}, families={"act_rms": layers}),
    ]
    write_log(Record(observations=observations), tmp_path / "log.csv")
    with (tmp_path / "log.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["step"], first["loss"], first["rss"], first["act_rms/a"]) == ("1", "0.5", "", "")
    assert (second["loss"], second["rss"], second["act_rms/a"]) == ("nan", "1e+09", "0.25")
    assert "act_rms/b" not in second
