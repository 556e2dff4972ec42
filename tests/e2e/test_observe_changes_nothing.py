"""A real training under ``lossguard run`` is, to the last bit, the one it would have been."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.home import Home
from tests.e2e.live import runs
from tests.support import warm_python

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_gpt.py"
SETTINGS = ("--steps", "30", "--batch-size", "4", "--block-size", "32", "--print-every", "1")
_TIMING = re.compile(r"\d+ ms\b")


def train(folder: Path, *launcher: str) -> tuple[str, dict[str, object]]:
    """What the script printed, its timings apart, and what it wrote."""
    folder.mkdir()
    result = folder / "result.json"
    done = warm_python.run(
        [*launcher, EXAMPLE, *SETTINGS, "--json", result],
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    written: dict[str, object] = json.loads(result.read_text())
    return _TIMING.sub("- ms", done.stdout), written


PLAIN = Path(__file__).resolve().parents[1] / "support" / "plain_training.py"


def test_a_healthy_run_is_the_same_plain_watched_and_guarded(
    tmp_path: Path, served_home: Home
) -> None:
    """The same losses in the file and the same lines on stdout; what we say is on stderr."""
    plain = train(tmp_path / "plain")
    watched = train(tmp_path / "watched", "-m", "lossguard", "run")
    guarded = train(tmp_path / "guarded", "-m", "lossguard", "run", "--guard")
    assert "loss" in plain[0]
    assert watched == plain
    assert guarded == plain
    assert served_home.database_path.exists(), "an agent was there and listened"


def test_a_script_that_knows_nothing_of_it_delivers_every_metric(
    tmp_path: Path, served_home: Home
) -> None:
    """And prints the very same numbers, though it is the script that loads torch; the agent has
    them all, the evaluation after the last step included."""
    script = [str(PLAIN), str(tmp_path / "model.pt")]
    plain = warm_python.run(script)
    assert plain.returncode == 0, plain.stderr
    watched = subprocess.run(
        [sys.executable, "-m", "lossguard", "run", *script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert watched.returncode == 0, watched.stderr
    assert watched.stdout == plain.stdout
    (run,) = runs(served_home)
    assert {
        "loss", "val_loss", "grad_norm", "max_norm", "lr", "loss_scale", "skipped", "step_time",
        "eval_in_training", "train_in_eval", "output_entropy", "top_token_share",
        "target_top_share", "logit_z", "input_top_share", "input_distinct_share", "input_length",
        "data_wait", "rss", "checkpoint_age",
    } <= set(run.metrics)  # fmt: skip
    assert run.last["val_loss"] == pytest.approx(json.loads(plain.stdout)[-1])
    assert (run.step, run.dropped) == (40, 0)
