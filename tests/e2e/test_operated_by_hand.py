"""A person operates a live run from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lossguard.agent.cli import app
from lossguard.home import Home
from tests.e2e.live import EndlessTraining, Training, newest_step, runs
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


def lossguard(*arguments: str) -> Result:
    """The command, as a person types it; ``exception`` is what it would say was wrong."""
    return CliRunner().invoke(app, arguments)


def test_a_run_is_rolled_back_skipped_and_stopped_by_hand(
    tmp_path: Path, served_home: Home
) -> None:
    """Each command is answered with what it did; a stopped run exits with 75."""
    training = EndlessTraining(tmp_path, served_home, watched=["--guard", "--name", "hand"])
    eventually(lambda: newest_step(served_home) > 60)

    skip = lossguard("send", "hand", "skip", "--json")
    assert skip.exit_code == 0, skip.output
    assert json.loads(skip.stdout)["status"] == "done"

    back = lossguard("send", "hand", "rollback", "--arg", "onset=30")
    assert back.exit_code == 0, back.output
    assert "restored_step" in back.stdout
    eventually(lambda: runs(served_home)[0].applied < runs(served_home)[0].step - 20)

    early = lossguard("send", "hand", "rollback", "--arg", "onset=1")
    assert early.exit_code == 1
    assert "no snapshot from before" in early.stdout

    stacks = lossguard("send", "hand", "dump_stacks", "--json")
    assert stacks.exit_code == 0, stacks.output
    path = json.loads(stacks.stdout)["result"].removeprefix("stacks ")
    assert "MainThread" in Path(path).read_text()

    unable = lossguard("send", "hand", "mute")
    assert unable.exit_code == 1
    assert "mute wants incident=ID or symptom=NAME" in str(unable.exception)

    muted = lossguard("send", "hand", "mute", "--arg", "symptom=plateau")
    assert muted.exit_code == 0, muted.output

    stop = lossguard("send", "hand", "stop")
    assert stop.exit_code == 0, stop.output
    assert training.wait() == 75, training.text()[-2000:]
    eventually(lambda: runs(served_home)[0].state == "stopped")

    after = lossguard("send", "hand", "skip")
    assert after.exit_code == 1
    assert "is over (stopped)" in str(after.exception)


def test_runs_and_incidents_speak_json(tmp_path: Path, served_home: Home) -> None:
    """One strict JSON object a run, with the published fields and no others."""
    training = Training(tmp_path, served_home, "--steps", "20", watched=["--name", "plain"])
    assert training.wait() == 0
    listed = lossguard("runs", "--json")
    (run,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert set(run) == {
        "run", "name", "state", "step", "applied", "world_size", "started",
        "metrics", "last", "incidents", "actions", "dropped",
    }  # fmt: skip
    assert (run["name"], run["step"], run["applied"], run["state"]) == ("plain", 20, 20, "finished")
    assert {"loss", "grad_norm", "lr", "step_time"} <= set(run["metrics"])
    assert run["dropped"] == 0
