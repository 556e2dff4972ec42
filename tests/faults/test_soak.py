"""A day in seconds: many runs, an agent that is killed, stopped, annoyed, nothing unaccounted."""

from __future__ import annotations

import pytest

from benchmarks import soak


def test_everything_of_a_short_day_is_accounted_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps, commands, incidents; `python -m benchmarks.soak` lives through a long one."""
    assert soak.soak(frames=6000, runs=6, faults=3, seed=5) == []
    assert "6,000 steps sent" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_of_a_longer_day_is_accounted_for() -> None:
    """With a fault every few thousand steps."""
    assert soak.soak(frames=100_000, runs=10, faults=20, seed=6) == []
