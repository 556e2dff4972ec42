"""LowGpuUtilization: an idle device, for long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.low_gpu_utilization import LowGpuUtilization, LowGpuUtilizationConfig

AT = 1_010


def shares(num: int, middle: float = 0.95, sigma: float = 0.03, seed: int = 0) -> list[float]:
    """Utilisations about a middle."""
    random = np.random.default_rng(seed)
    return list(map(float, np.clip(middle + sigma * random.standard_normal(num), 0.0, 1.0)))


def feed(utilization: Sequence[float]) -> list[Finding]:
    """The findings on one utilisation a step."""
    detector = LowGpuUtilization()
    said = [
        detector.update(Observation(step, {"gpu_utilization": share}))
        for step, share in enumerate(utilization)
    ]
    return [finding for finding in said if finding is not None]


@pytest.mark.parametrize("middle", [0.45, 0.95])
def test_a_busy_device_is_silent(middle: float) -> None:
    """The healthy twin."""
    assert feed(shares(10_000, middle)) == []


def test_a_slow_start_and_idle_spells_are_silent() -> None:
    """Compilation, evaluation and checkpoints: less than 300 observations at a time."""
    utilization = shares(10_000)
    for start in range(0, 10_000, 1_000):
        utilization[start : start + 250] = shares(250, 0.02)
    assert feed(utilization) == []


def test_a_third_is_a_line_and_a_tenth_a_warning() -> None:
    """Told after 300 observations, over after two busy blocks, dated to the beginning."""
    for middle, severity in [(0.2, Severity.INFO), (0.03, Severity.WARNING)]:
        utilization = shares(3_000)
        utilization[AT : AT + 800] = shares(800, middle)
        first, last = feed(utilization)
        assert first.severity is severity
        assert abs(first.onset_step - AT) <= 1
        assert AT + 250 <= first.detected_step <= AT + 350
        assert AT + 800 <= last.detected_step <= AT + 950


def test_a_device_that_idles_more_and_more_escalates_once() -> None:
    """A line first, then a warning, of one episode."""
    utilization = shares(500) + shares(500, 0.2) + shares(1_000, 0.03)
    said = feed(utilization)
    assert [f.severity for f in said] == [Severity.INFO, Severity.WARNING]
    assert said[0].onset_step == said[1].onset_step


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 1e38])
def test_values_that_are_no_shares_are_ignored(bad: float) -> None:
    """They neither alarm nor enter the state."""
    assert feed([bad] * 1_000) == []


@pytest.mark.parametrize("wrong", [{"note": 0.05}, {"block": 1}, {"calm": 0.25}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LowGpuUtilizationConfig(**wrong)  # type: ignore[arg-type]
