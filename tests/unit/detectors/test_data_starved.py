"""DataStarved: a large share of the time, for long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.data_starved import DataStarved, DataStarvedConfig

AT = 1_010


def waits(num_steps: int, share: float = 0.02, seed: int = 0) -> list[float]:
    """Waits of steps that take a second each."""
    random = np.random.default_rng(seed)
    noise = np.exp(0.5 * random.standard_normal(num_steps))
    return list(map(float, np.minimum(share * noise, 1.0)))


def feed(data_wait: Sequence[float], step_time: float = 1.0) -> list[Finding]:
    """The findings on one wait a step."""
    detector = DataStarved()
    said = [
        detector.update(Observation(step, {"data_wait": wait, "step_time": step_time}))
        for step, wait in enumerate(data_wait)
    ]
    return [finding for finding in said if finding is not None]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.15])
def test_short_waits_are_silent(share: float) -> None:
    """The healthy twin."""
    assert feed(waits(10_000, share)) == []


def test_long_waits_now_and_then_are_silent() -> None:
    """First steps, epoch edges, checkpoints: up to a third of the steps may be all wait."""
    data_wait = waits(10_000)
    data_wait[:45] = [1.0] * 45
    data_wait[::3] = [1.0] * len(data_wait[::3])
    assert feed(data_wait) == []


def test_starving_is_a_line_and_a_warning_when_it_lasts() -> None:
    """Told within a block, a warning after four, over two blocks after its end."""
    data_wait = waits(3_000)
    data_wait[AT : AT + 500] = waits(500, 0.8)
    line, warning, over = feed(data_wait)
    assert (line.severity, line.onset_step) == (Severity.INFO, AT)
    assert line.detected_step <= AT + 75
    assert "of the time goes to waiting for data" in line.message
    assert warning.severity is Severity.WARNING
    assert warning.onset_step == AT
    assert AT + 150 <= warning.detected_step <= AT + 250
    assert AT + 500 <= over.detected_step <= AT + 650


def test_a_moderate_wait_stays_a_line() -> None:
    """A third of the time is worth no more."""
    assert [f.severity for f in feed(waits(5_000, 0.4))] == [Severity.INFO]


def test_a_wait_about_the_bound_does_not_flap() -> None:
    """One episode, however long it swings about 0.3."""
    assert len(feed(waits(20_000, 0.3))) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_values_that_are_no_times_are_ignored(bad: float) -> None:
    """They neither alarm nor enter the state."""
    assert feed([bad] * 500) == []
    assert feed([0.9] * 500, step_time=bad) == []


def test_a_log_in_epochs_is_too_short_to_tell() -> None:
    """Thirty rows are no block."""
    assert feed([0.9] * 30) == []


@pytest.mark.parametrize("wrong", [{"note": 0.9}, {"block": 1}, {"calm_blocks": 0}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        DataStarvedConfig(**wrong)  # type: ignore[arg-type]
