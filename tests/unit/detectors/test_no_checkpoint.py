"""NoCheckpoint: what was last saved is too old."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.no_checkpoint import NoCheckpoint, NoCheckpointConfig

HOUR = 3600.0


def feed(ages: Sequence[float], config: NoCheckpointConfig | None = None) -> list[Finding]:
    """The findings on one age a step."""
    detector = NoCheckpoint(config)
    said = [
        detector.update(Observation(step, {"checkpoint_age": age})) for step, age in enumerate(ages)
    ]
    return [finding for finding in said if finding is not None]


def saved_every(steps: int, num_steps: int, step_s: float = 60.0) -> list[float]:
    """Ages in a run that saves every so many steps."""
    return [step_s * (step % steps) for step in range(num_steps)]


def test_a_run_that_saves_every_hour_is_silent() -> None:
    """The healthy twin."""
    assert feed(saved_every(60, 2_000)) == []


def test_two_hours_are_a_line_and_six_a_warning() -> None:
    """One episode, which the next save ends."""
    line, warning, over = feed(saved_every(400, 420))
    assert (line.severity, line.onset_step, line.detected_step) == (Severity.INFO, 121, 122)
    assert (warning.severity, warning.onset_step) == (Severity.WARNING, 121)
    assert warning.message == "nothing was saved for 6.02 hours"
    assert (over.end_step, over.detected_step) == (399, 400)


def test_every_run_out_of_time_is_told() -> None:
    """Once for each time that nothing was saved for three hours."""
    assert len(feed(saved_every(180, 1_799))) == 19


def test_the_user_says_what_is_too_long() -> None:
    """A quarter of an hour, for one who loses much by it."""
    config = NoCheckpointConfig(max_age_s=0.25 * HOUR)
    assert feed(saved_every(60, 59), config)[0].onset_step == 16
    assert feed(saved_every(10, 600), config) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_one_absurd_age_says_nothing(bad: float) -> None:
    """Too old must be seen twice in a row."""
    ages = saved_every(60, 300)
    ages[150] = bad
    assert feed(ages) == []


@pytest.mark.parametrize("wrong", [{"max_age_s": 0.0}, {"warn_age_s": 60.0}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        NoCheckpointConfig(**wrong)
