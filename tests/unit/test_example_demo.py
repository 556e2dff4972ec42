"""What the demo makes of its three trainings, and how it treats the ones that fail."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path

import psutil
import pytest

from lossguard.agent import demo, feed
from lossguard.agent.demo_outcome import Outcome
from lossguard.errors import LossguardError
from lossguard.home import find_home
from tests.support.waiting import eventually

SKIP = feed.ActionLine(action="skip", step=281, result="done: over its bound")
ROLLBACK = feed.ActionLine(action="rollback", step=444, result="done: restored_step 438")


def incident(symptom: str, score: float, *actions: feed.ActionLine) -> feed.IncidentLine:
    return feed.IncidentLine(
        id=f"demo.{symptom}", run="demo", state="resolved", symptom=symptom, severity="critical",
        metric="loss", onset_step=441, detected_step=443, end_step=450, score=score, message="",
        actions=list(actions), where="blocks.2",
    )  # fmt: skip


def outcome(clean: float = 1.70, bare: float = math.nan, guarded: float = 1.73) -> Outcome:
    incidents = [
        incident("loss_spike", 9.0, ROLLBACK, SKIP),
        incident("nonfinite", math.inf, SKIP),
    ]
    return Outcome(800, clean, bare, guarded, ["step 281: a poisoned batch"], incidents)


@pytest.mark.parametrize(
    ("bare", "guarded", "saved"),
    [
        (math.nan, 1.73, True),
        (3.10, 1.73, True),
        (math.nan, 1.80, False),
        (math.nan, math.nan, False),
        (1.71, 1.71, False),
    ],
    ids=["bare is NaN", "bare is worse", "guarded is worse", "both are NaN", "nothing happened"],
)
def test_saved_is_guarded_close_to_clean_and_bare_not(
    bare: float, guarded: float, saved: bool
) -> None:
    """Five percent is the line; a NaN is never close."""
    result = outcome(bare=bare, guarded=guarded)
    assert result.saved is saved
    assert ("came through" in result.conclusion) is saved


def test_json_has_null_for_what_is_not_finite() -> None:
    written = json.loads(json.dumps(outcome().as_json(), allow_nan=False))
    assert list(written) == [
        "clean_val_loss", "bare_val_loss", "guarded_val_loss", "incidents", "actions",
    ]  # fmt: skip
    assert written["bare_val_loss"] is None
    assert [line["score"] for line in written["incidents"]] == [9.0, None]


def test_an_action_of_two_incidents_stands_once() -> None:
    """And they stand in the order of their steps."""
    assert [line["action"] for line in outcome().as_json()["actions"]] == ["skip", "rollback"]


def test_the_table_names_everything() -> None:
    text = outcome().as_text()
    for part in ("800 steps", "a poisoned batch", "nonfinite", "blocks.2", "restored_step 438"):
        assert part in text
    assert "guarded     1.7300          +1.8%" in text


def test_the_table_says_none_where_nothing_was_seen() -> None:
    nothing = Outcome(10, 1.7, 1.7, 1.7, [], [])
    assert nothing.as_text().count("none") == 2


def test_a_failed_training_shows_its_last_lines(tmp_path: Path) -> None:
    code = "print('cannot find the data'); raise SystemExit(3)"
    training = demo._Training("bare", tmp_path, [sys.executable, "-c", code], 10)
    with pytest.raises(LossguardError, match=r"bare training ended with exit code 3:\ncannot find"):
        _wait_for(training)


def test_a_killed_training_says_by_which_signal(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    training = demo._Training("clean", tmp_path, [sys.executable, "-c", code], 10)
    with pytest.raises(LossguardError, match="signal SIGSEGV"):
        _wait_for(training)


def test_progress_is_read_from_what_the_training_prints(tmp_path: Path) -> None:
    lines = ["trouble at step 3: a poisoned batch", "step 5/10  loss 2.5000  lr 1e-3", "step 5/10"]
    code = f"print({chr(10).join(lines)!r})"
    training = demo._Training("bare", tmp_path, [sys.executable, "-c", code], 10)
    _wait_for(training)
    assert training.progress() == (5, "2.5000")
    assert training.accidents() == ["step 3: a poisoned batch"]


def test_killing_a_training_ends_what_it_started_too(tmp_path: Path) -> None:
    """Ctrl-C in the demo leaves nothing behind."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(f'step {child.pid}/1  loss 0', flush=True)\n"
        "time.sleep(60)"
    )
    training = demo._Training("guarded", tmp_path, [sys.executable, "-c", code], 10)
    try:
        grandchild = psutil.Process(eventually(lambda: training.progress()[0]))
    finally:
        training.kill()
    assert training._process.poll() is not None
    eventually(lambda: not _alive(grandchild), 5.0)


def test_it_leaves_the_users_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own inside, and all as it was outside."""
    monkeypatch.setenv("LOSSGUARD_HOME", "/nowhere/of-the-user")
    monkeypatch.setenv("LOSSGUARD_POLICY", "observe")
    with demo._own_home() as folder:
        assert find_home().state.is_relative_to(folder)
        assert "LOSSGUARD_POLICY" not in os.environ
    assert os.environ["LOSSGUARD_HOME"] == "/nowhere/of-the-user"
    assert os.environ["LOSSGUARD_POLICY"] == "observe"
    assert not folder.exists()


def test_without_torch_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert demo.run_demo(as_json=True) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "pip install 'lossguard[torch]'" in said.err


def _wait_for(training: demo._Training) -> None:
    eventually(lambda: not training.running())


def _alive(process: psutil.Process) -> bool:
    """A zombie is not: it waits for an init that a container may not have."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
