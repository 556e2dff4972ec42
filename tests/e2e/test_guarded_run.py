"""A training with real trouble survives under the guard, and dies without."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from lossguard.home import Home
from tests.e2e.live import Training, actions, incidents, runs

pytestmark = pytest.mark.e2e

STEPS = ("--steps", "160", "--eval-every", "160")


def test_the_guard_saves_a_run_that_dies_without_it(tmp_path: Path, own_home: Home) -> None:
    """Poisoned batch, learning-rate bug, NaN: skipped, rolled back, skipped; the loss is fine."""
    bare_folder, guarded_folder = tmp_path / "bare", tmp_path / "guarded"
    bare_folder.mkdir()
    guarded_folder.mkdir()
    bare = Training(bare_folder, own_home, *STEPS, "--trouble", watched=None)
    guarded = Training(guarded_folder, own_home, *STEPS, "--trouble", watched=["--guard"])
    assert bare.wait() == 0
    assert guarded.wait() == 0, guarded.text()
    assert bare.results()["val_loss"] is None
    assert math.isfinite(guarded.results()["val_loss"])
    assert guarded.results()["val_loss"] < 3.0

    found = incidents(own_home)
    assert len(found) == 3, found
    poisoned, rate, nan = found
    assert {poisoned.symptom, *poisoned.also} == {"grad_spike", "loss_spike"}
    assert set(actions([poisoned])) == {"skip"}
    assert poisoned.onset_step == poisoned.detected_step == 57
    assert rate.symptom == "lr_jump"
    assert rate.severity == "critical"
    assert 89 <= rate.onset_step <= rate.detected_step <= 95
    back = [a.result for a in rate.actions if a.action == "rollback"]
    assert len(back) == 1
    found_state = re.match(r"done: restored_step (\d+),", back[0])
    assert found_state is not None, back
    # Two steps before the onset or earlier: how much, the cost of a snapshot decides.
    assert int(found_state[1]) <= rate.onset_step - 2
    assert (nan.symptom, nan.onset_step) == ("nonfinite", 129)
    assert nan.where.startswith("blocks.")
    assert set(actions([nan])) == {"skip"}
    assert all(line.state == "resolved" for line in found)
    assert runs(own_home)[0].state == "finished"


def test_a_clean_run_is_left_alone_to_the_last_bit(tmp_path: Path, own_home: Home) -> None:
    """The healthy twin: no incident, no action, and exactly the losses of a plain run."""
    plain_folder, guarded_folder = tmp_path / "plain", tmp_path / "guarded"
    plain_folder.mkdir()
    guarded_folder.mkdir()
    plain = Training(plain_folder, own_home, *STEPS, watched=None)
    guarded = Training(guarded_folder, own_home, *STEPS, watched=["--guard"])
    assert plain.wait() == 0
    assert guarded.wait() == 0, guarded.text()
    assert guarded.results() == plain.results()
    summary = runs(own_home)[0]
    assert (summary.step, summary.applied) == (160, 160)
    assert summary.actions == 0
    assert not [line for line in incidents(own_home) if line.severity == "critical"]
