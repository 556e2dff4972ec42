"""Recorded trainings, tables, and the list of failures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.detection_failures import failures
from benchmarks.detection_logs import Event, Log
from benchmarks.detection_rules import LEVELS
from benchmarks.detection_scenarios import HEALTHY, judge, recordings
from benchmarks.detection_scoring import Alarm, Outcome, score
from benchmarks.detection_table import BEGIN, END, Sheet, rewrite
from lossguard.detectors import Observation


def record(folder: Path, name: str, losses: list[float]) -> None:
    """A recorded training with a loss and a family of two layers."""
    rows = [f"{step},{loss},{'' if step % 2 else 1.0},2.0" for step, loss in enumerate(losses)]
    header = "step,loss,grad_norm/a.weight,grad_norm/b.weight"
    (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")


def test_a_folder_of_recordings_names_symptoms_and_where_they_begin(tmp_path: Path) -> None:
    """By file name, and trials.csv where there is one."""
    record(tmp_path, "nonfinite__exp__3", [1.0])
    record(tmp_path, "nonfinite__4", [1.0])
    record(tmp_path, "healthy__exp__3", [1.0])
    (tmp_path / "trials.csv").write_text("log,begins\nnonfinite__exp__3.csv,70\n")
    found = [(each.symptom, each.begins) for each in recordings(tmp_path)]
    assert found == [(HEALTHY, 0), ("nonfinite", 0), ("nonfinite", 70)]


def test_a_recorded_nan_is_found_by_its_name_and_its_healthy_twin_left_alone(
    tmp_path: Path,
) -> None:
    """By Lossguard; the NaN check finds it too, but has no names for anything."""
    losses = [3.0 - 0.01 * step + 0.01 * math.sin(7 * step) for step in range(100)]
    record(tmp_path, "healthy__nan__0", losses)
    record(tmp_path, "nonfinite__nan__0", [*losses[:80], *[math.nan] * 20])
    healthy, sick = (judge(recording) for recording in recordings(tmp_path))
    assert (sick["Lossguard, critical"].found, sick["Lossguard, critical"].named) == (True, True)
    assert (sick["NaN check"].found, sick["NaN check"].named) == (True, False)
    assert (healthy["Lossguard, critical"].found, healthy["NaN check"].num_false) == (False, 0)


def test_alarms_before_the_cause_are_false(tmp_path: Path) -> None:
    """What was wrong before the trouble began does not find it."""
    record(tmp_path, "divergence__0", [1.0] * 10 + [math.nan] + [1.0] * 60)
    (tmp_path / "trials.csv").write_text("log,begins\ndivergence__0,60\n")
    (recording,) = recordings(tmp_path)
    verdict = judge(recording)["NaN check"]
    assert (verdict.found, verdict.num_false) == (False, 1)


def test_tables_are_rewritten_between_the_marks(tmp_path: Path) -> None:
    """And nothing else in the document."""
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    rewrite(path, [Sheet("A title", ["rule", "found"], [["x", "1/2"]])])
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "### A title\n\n| rule | found |\n| --- | ---: |\n| x | 1/2 |\n" in text
    assert "old" not in text


def test_a_document_without_marks_is_left_alone(tmp_path: Path) -> None:
    """And the error names it."""
    path = tmp_path / "page.md"
    path.write_text("nothing here\n")
    with pytest.raises(ValueError, match=r"page\.md"):
        rewrite(path, [])
    assert path.read_text() == "nothing here\n"


def outcomes(*alarms: Alarm) -> dict[str, list[Outcome]]:
    """Of a log with a critical and a lesser event, at each of Lossguard's levels."""
    events = (
        Event("divergence", 100, 120, "100-120", True),
        Event("loss_spike", 300, 300, "300-300", False),
    )
    rows = [Observation(row, {"loss": 1.0}) for row in range(500)]
    log = Log("run", "group", "spike", rows, events)
    return {
        name: [score(log, [a for a in alarms if f" {severity}" in a.name or severity == "info"])]
        for name, severity in LEVELS.items()
    }


def test_misses_and_false_alarms_are_listed_with_their_steps() -> None:
    """A critical event that was only noted is grave; so is a critical alarm for nothing."""
    noted = Alarm(105, 105, "upset", 100, "loss_spike info")
    wrong = Alarm(400, 400, "upset", 400, "divergence critical")
    said = list(failures(outcomes(noted, wrong)))
    assert [(f.what, f.steps, f.said, f.grave) for f in said] == [
        ("divergence", "100-120", "said +5 rows, not as critical", True),
        ("loss_spike", "300-300", "missed", False),
        ("divergence critical", "400", "no such event", True),
    ]
    assert "steps 300-300: missed" in said[1].line


def test_a_false_episode_is_listed_once() -> None:
    """At the severity of its first alarm, though it counts at every level below."""
    wrong = Alarm(400, 400, "upset", 400, "divergence critical")
    assert sum(f.said == "no such event" for f in failures(outcomes(wrong))) == 1
