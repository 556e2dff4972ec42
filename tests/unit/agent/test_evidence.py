"""What an incident leaves behind, and how it is shown."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lossguard.agent.evidence import Evidence, layers_table, steps_table
from lossguard.agent.feed import ActionLine, IncidentLine
from lossguard.agent.showing_incident import show_incident
from lossguard.detectors import Family, Observation
from lossguard.errors import InputError
from lossguard.home import Home
from tests.support.probe import hello_of

INCIDENT = IncidentLine(
    id="run-a.1",
    run="run-a",
    state="open",
    symptom="hang",
    severity="critical",
    metric="heartbeat",
    onset_step=7,
    detected_step=7,
    end_step=None,
    score=1.0,
    message="no progress for 25 s",
    actions=[ActionLine(action="dump_stacks", step=7, result="done: 2 processes")],
    where="train.py:12 in step",
)


def observed(step: int, loss: float, *norms: float) -> Observation:
    """A step with the gradient norms of two layers."""
    family = Family(("a", "b"), np.array(norms, np.float32), np.array([False, False]))
    return Observation(step, {"loss": loss}, float(step), step, {"grad_norm": family})


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def evidence(home: Home) -> Evidence:
    """Of a run that has done 400 steps, the last with a layer out of its range."""
    evidence = Evidence("run-a", home.state / "incidents")
    for step in range(400):
        evidence.note(observed(step, 2.0, 1.0, 3.0))
    evidence.note(observed(400, 9.0, 1.0, 300.0))
    return evidence


def test_the_last_steps_are_kept_and_no_more(evidence: Evidence, home: Home) -> None:
    evidence.write(INCIDENT, hello_of())
    steps = rows((home.state / "incidents" / "run-a.1" / "steps.csv").read_text())
    assert len(steps) == 256
    assert (steps[-1]["step"], float(steps[-1]["loss"])) == ("400", 9.0)


def test_the_layer_that_changed_most_comes_first(evidence: Evidence, home: Home) -> None:
    evidence.write(INCIDENT, hello_of())
    first, second = rows((home.state / "incidents" / "run-a.1" / "layers.csv").read_text())
    assert (first["layer"], float(first["ratio"])) == ("b", 100.0)
    assert (second["layer"], float(second["ratio"])) == ("a", 1.0)


def test_a_blank_was_not_measured() -> None:
    text = steps_table([Observation(1, {"loss": 1.0}), Observation(2, {"lr": 0.1})])
    assert [(row["loss"], row["lr"]) for row in rows(text)] == [("1", ""), ("", "0.1")]
    assert rows(layers_table([])) == []


def test_later_words_do_not_overwrite_what_was_seen_first(evidence: Evidence, home: Home) -> None:
    evidence.write(INCIDENT, hello_of())
    folder = home.state / "incidents" / "run-a.1"
    before = (folder / "steps.csv").read_text()
    evidence.note(observed(401, 1.0, 1.0, 1.0))
    evidence.write(INCIDENT, hello_of())
    assert (folder / "steps.csv").read_text() == before


def test_a_run_that_is_forgotten_leaves_nothing(evidence: Evidence, home: Home) -> None:
    evidence.write(INCIDENT, hello_of())
    (home.state / "incidents" / "run-ab.1").mkdir()
    evidence.forget()
    assert [path.name for path in (home.state / "incidents").iterdir()] == ["run-ab.1"]


def test_a_disk_that_takes_nothing_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Evidence("run-a", tmp_path / "file").write(INCIDENT, hello_of())


def test_an_incident_is_shown_with_all_that_was_kept(
    evidence: Evidence, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence.write(INCIDENT, hello_of())
    evidence.put("run-a.1", "stacks.txt", 'Thread 1 "MainThread"\n    step (train.py:12)\n')
    show_incident(home, "", as_json=False, archive="")
    page = capsys.readouterr().out
    for words in (
        "critical hang: The run stands still", "no progress for 25 s", "train.py:12 in step",
        "dump_stacks, done: 2 processes", "What helps", "step (train.py:12)", "grad_norm  b",
    ):  # fmt: skip
        assert words in page
    show_incident(home, "run-a", as_json=True, archive="")
    said = json.loads(capsys.readouterr().out)
    assert said["symptom"] == "hang"
    assert len(said["files"]) == 5


def test_an_archive_holds_all_of_it(evidence: Evidence, home: Home, tmp_path: Path) -> None:
    evidence.write(INCIDENT, hello_of())
    show_incident(home, "run-a.1", as_json=False, archive=str(tmp_path / "x.tar.gz"))
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        assert "run-a.1/steps.csv" in archive.getnames()


@pytest.mark.parametrize("name", ["../../etc", "nobody", ""])
def test_what_is_not_there_is_said(home: Home, name: str) -> None:
    with pytest.raises(InputError, match="incident"):
        show_incident(home, name, as_json=False, archive="")
