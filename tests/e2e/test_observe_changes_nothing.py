"""A real training under ``lossguard run`` is, to the last bit, the one it would have been."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.home import Home

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_gpt.py"
SETTINGS = ("--steps", "30", "--batch-size", "4", "--block-size", "32", "--print-every", "1")
_TIMING = re.compile(r"\d+ ms\b")


def train(folder: Path, *launcher: str) -> tuple[str, dict[str, object]]:
    """What the script printed, its timings apart, and what it wrote."""
    folder.mkdir()
    result = folder / "result.json"
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLE), *SETTINGS, "--json", str(result)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written: dict[str, object] = json.loads(result.read_text())
    return _TIMING.sub("- ms", done.stdout), written


def test_a_healthy_run_is_the_same_plain_watched_and_guarded(
    tmp_path: Path, own_home: Home
) -> None:
    """The same losses in the file and the same lines on stdout; what we say is on stderr."""
    plain = train(tmp_path / "plain")
    watched = train(tmp_path / "watched", "-m", "lossguard", "run")
    guarded = train(tmp_path / "guarded", "-m", "lossguard", "run", "--guard")
    assert "loss" in plain[0]
    assert watched == plain
    assert guarded == plain
    assert own_home.database_path.exists(), "an agent was there and listened"
