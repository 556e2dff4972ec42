"""Activations and logits that grow and grow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lossguard.detectors import (
    ActivationDrift,
    ActivationDriftConfig,
    Finding,
    Observation,
    Severity,
)
from tests.support.layers import layers, replayed, with_families

NAMES = tuple(f"blocks.{i}" for i in range(6))


def drifting(
    size: Callable[[np.ndarray], np.ndarray], num_steps: int, warm_up: int = 0
) -> list[Observation]:
    """A run in which the activations of block 3 have that size, those of the others 1."""
    random = np.random.default_rng(3)
    sizes = np.ones((num_steps, len(NAMES)))
    sizes[:, 3] = size(np.arange(num_steps, dtype=float))
    sizes *= np.exp(0.05 * random.standard_normal(sizes.shape))
    return [
        with_families(
            step,
            {"act_rms": layers(NAMES, sizes[step])},
            loss=1.0,
            lr=1e-3 * min(1.0, (step + 1) / max(warm_up, 1)),
        )
        for step in range(num_steps)
    ]


def logits(size: Callable[[np.ndarray], np.ndarray], num_steps: int) -> list[Observation]:
    """A run with that log-sum-exp of the logits, sampled every 16 steps."""
    random = np.random.default_rng(4)
    sizes = size(np.arange(num_steps, dtype=float)) + 0.2 * random.standard_normal(num_steps)
    return [
        with_families(step, logit_z=float(sizes[step]))
        if step % 16 == 0
        else with_families(step, loss=1.0)
        for step in range(num_steps)
    ]


def said(rows: list[Observation]) -> list[Finding]:
    """What the detector says of them."""
    return replayed(ActivationDrift(), rows)


@pytest.mark.parametrize(
    "size",
    [
        lambda t: np.exp(np.maximum(t - 2_000.0, 0.0) / 400.0),
        lambda t: 1.0 + np.maximum(t - 2_000.0, 0.0) / 100.0,
    ],
    ids=["exponential", "linear"],
)
def test_growth_without_end_is_an_info_and_then_a_warning(
    size: Callable[[np.ndarray], np.ndarray],
) -> None:
    """At four and at ten times the settled level, dated to within 150 steps, with its module."""
    findings = said(drifting(size, 3_400))
    assert [finding.severity for finding in findings] == [Severity.INFO, Severity.WARNING]
    assert {finding.where for finding in findings} == {"blocks.3"}
    assert 1_850 <= findings[0].onset_step <= 2_060
    times = size(np.array([float(f.detected_step) for f in findings]))
    assert 4.0 <= times[0] <= 6.0
    assert 10.0 <= times[1] <= 14.0


def test_growth_over_tens_of_thousands_of_steps_is_found() -> None:
    """However slow, if it is steady."""
    findings = said(drifting(lambda t: 1.0 + np.maximum(t - 10_000.0, 0.0) / 5_000.0, 32_000))
    assert findings[0].where == "blocks.3"
    assert findings[0].severity is Severity.INFO
    assert 24_000 <= findings[0].detected_step <= 29_000


@pytest.mark.parametrize(
    "size",
    [
        lambda t: np.ones_like(t),
        lambda t: np.sqrt(1.0 + t / 100.0),
        lambda t: 1.0 + 30.0 * (1.0 - np.exp(-t / 150.0)),
        lambda t: 1.0 + np.log1p(t / 20.0),
        lambda t: np.where(t > 3_000.0, 5.0, 1.0),
        lambda t: np.where((t > 3_000.0) & (t < 3_080.0), 50.0, 1.0),
        lambda t: np.where(t % 500.0 < 5.0, 1e4, 1.0),
        lambda t: np.where((t > 3_000.0) & (t < 3_500.0), 0.2, 1.0),
        lambda t: 2.0 - np.cos(t / 1_000.0),
    ],
    ids=["flat", "root", "levels_off", "log", "step", "bump", "outliers", "dip", "waves"],
)
def test_growth_that_slows_down_or_does_not_last_is_healthy(
    size: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Each grows by four and more, or looks like it for a while."""
    assert said(drifting(size, 8_000)) == []


def test_growth_during_a_long_warm_up_is_healthy() -> None:
    """Thirty times in 1,500 steps while the learning rate rises, and none after."""
    rows = drifting(lambda t: np.minimum(np.exp(t / 440.0), 30.0), 5_000, warm_up=1_500)
    assert said(rows) == []


def test_a_jump_by_ten_that_stays_is_a_warning() -> None:
    """Within three blocks, and over when it has stood there for three more."""
    findings = said(drifting(lambda t: np.where(t >= 3_000.0, 14.0, 1.0), 4_000))
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    assert 2_870 <= findings[0].onset_step <= 3_000
    assert findings[0].detected_step <= 3_000 + 260
    assert findings[1].end_step is not None


def test_logits_that_keep_growing_are_a_warning() -> None:
    """From 10 to 20 and on, found at twice the level."""
    findings = said(logits(lambda t: 10.0 + np.maximum(t - 3_000.0, 0.0) / 200.0, 6_500))
    assert [(f.severity, f.metric) for f in findings] == [(Severity.WARNING, "logit_z")]
    assert findings[0].detected_step >= 5_000


def test_large_logits_that_still_grow_are_a_warning() -> None:
    """45 that become 60."""
    findings = said(logits(lambda t: 45.0 + np.maximum(t - 3_000.0, 0.0) / 200.0, 6_500))
    assert [finding.severity for finding in findings] == [Severity.WARNING]


@pytest.mark.parametrize(
    "size",
    [
        lambda t: 10.0 + 0.0 * t,
        lambda t: 60.0 + 0.0 * t,
        lambda t: 2.0 + t / 1_000.0,
        lambda t: 5.0 + 20.0 * (1.0 - np.exp(-t / 300.0)),
        lambda t: 5.0 + np.log1p(t),
    ],
    ids=["flat", "large", "small", "confident", "log"],
)
def test_logits_that_settle_are_healthy(size: Callable[[np.ndarray], np.ndarray]) -> None:
    """Growth from 2 to 8 is below what a vocabulary of 20,000 starts with."""
    assert said(logits(size, 7_000)) == []


@pytest.mark.parametrize(
    "changes", [{"settle": 8}, {"growth": 0.5}, {"strong_growth": 2.0}, {"logit_least": 70.0}]
)
def test_senseless_thresholds_are_refused(changes: dict[str, float]) -> None:
    """With the value in the error."""
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        ActivationDriftConfig(**changes)  # type: ignore[arg-type]
