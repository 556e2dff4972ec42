"""A training with real trouble survives under the guard, and dies without."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lossguard.agent.launching import ensure_agent
from lossguard.home import Home, find_home
from tests.e2e.live import Training, actions, end_agent, incidents, runs
from tests.support import slack_server
from tests.support.slack_server import SlackServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STEPS = 120
PATIENCE_S = 300.0


class Four(NamedTuple):
    """Trainings that have ended: with trouble and without, each plain and under the guard. Both
    guarded ones had one agent, which told people of them."""

    home: Home
    slack: SlackServer
    bare: Training
    sick: Training
    plain: Training
    well: Training


@pytest.fixture(scope="module")
def four() -> Iterator[Four]:
    """Trained once for all tests here: that is what takes long."""
    folder, slack = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp")), SlackServer()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LOSSGUARD_HOME", str(folder / "home"))
        monkeypatch.delenv("LOSSGUARD", raising=False)
        monkeypatch.setenv("LOSSGUARD_SLACK_API_URL", slack.url)
        monkeypatch.setenv("LOSSGUARD_SLACK_BOT_TOKEN", slack_server.TOKEN)
        home = find_home().create()
        home.config.mkdir(parents=True, exist_ok=True)
        home.settings_path.write_text('[slack]\nchannel = "training"\n')
        try:
            ensure_agent(home, 60.0)
            yield Four(home, slack, *all_four(folder, home))
        finally:
            end_agent(home)
            slack.close()
            shutil.rmtree(folder)


def all_four(folder: Path, home: Home) -> list[Training]:
    """At the same time, to their ends."""
    trainings = []
    for name, trouble in (("bare", True), ("sick", True), ("plain", False), ("well", False)):
        (folder / name).mkdir()
        watched = ["--guard", "--name", name] if name in ("sick", "well") else None
        own = ["--steps", str(STEPS), "--eval-every", str(STEPS), *["--trouble"] * trouble]
        trainings.append(Training(folder / name, home, *own, watched=watched))
    for training in trainings:
        assert training.wait(PATIENCE_S) == 0, training.text()
    eventually(lambda: [run.state for run in runs(home)] == ["finished"] * 2)
    return trainings


def test_the_guard_saves_a_run_that_dies_without_it(four: Four) -> None:
    """Poisoned batch, learning-rate bug, NaN: skipped, rolled back, skipped; the loss is fine."""
    assert four.bare.results()["val_loss"] is None
    assert math.isfinite(four.sick.results()["val_loss"])
    assert four.sick.results()["val_loss"] < 3.0

    found = incidents(four.home, "sick")
    assert len(found) == 3, found
    poisoned, rate, nan = found
    assert {poisoned.symptom, *poisoned.also} == {"grad_spike", "loss_spike"}
    assert set(actions([poisoned])) == {"skip"}
    assert poisoned.onset_step == poisoned.detected_step == 43
    assert rate.symptom == "lr_jump"
    assert rate.severity == "critical"
    assert 67 <= rate.onset_step <= rate.detected_step <= 73
    back = [a.result for a in rate.actions if a.action == "rollback"]
    assert len(back) == 1
    found_state = re.match(r"done: restored_step (\d+),", back[0])
    assert found_state is not None, back
    # Two steps before the onset or earlier: how much, the cost of a snapshot decides.
    assert int(found_state[1]) <= rate.onset_step - 2
    assert (nan.symptom, nan.onset_step) == ("nonfinite", 97)
    assert nan.where.startswith("blocks.")
    assert set(actions([nan])) == {"skip"}
    assert all(line.state == "resolved" for line in found)


def test_a_clean_run_is_left_alone_to_the_last_bit(four: Four) -> None:
    """The healthy twin: no incident, no action, and exactly the losses of a plain run."""
    assert four.well.results() == four.plain.results()
    (summary,) = [run for run in runs(four.home) if run.name == "well"]
    assert (summary.step, summary.applied) == (STEPS, STEPS)
    assert summary.actions == 0
    assert not [line for line in incidents(four.home, "well") if line.severity == "critical"]


def test_the_sick_run_is_one_thread_and_its_healthy_twin_none(four: Four) -> None:
    """For people: root, picture, action and resolution of the one."""
    workspace = four.slack.workspace

    def resolution() -> str:
        replies = [reply["text"] for root in workspace.roots for reply in workspace.thread(root)]
        return next((text for text in replies if "*Resolved*" in text), "")

    eventually(resolution)
    (root,) = workspace.roots
    replies = workspace.thread(root)
    assert "The learning rate jumps · sick" in root["text"]
    assert replies[0]["text"].startswith("Details")
    (picture,) = [reply["file"]["data"] for reply in replies if "file" in reply]
    assert picture.startswith(b"\x89PNG")
    assert eventually(lambda: "resolved" in root["text"])
    # An action that was faster than the first message stands in that alone, else in a reply too.
    assert "rolled back" in str(root["blocks"])
    assert "well" not in str(workspace.messages)
