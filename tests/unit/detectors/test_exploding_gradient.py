"""Gradients that explode towards the input, or from step to step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lossguard.detectors import (
    ExplodingGradient,
    ExplodingGradientConfig,
    Finding,
    Observation,
    Severity,
)
from tests.support.layers import BLOCKS, layers, replayed, with_families

NAMES = ("embed.weight", *BLOCKS, "head.weight")
HEIGHT = np.array([0.0, *(7.0 - int(name.split(".")[1]) for name in BLOCKS), 0.0])
"""Blocks between each layer and the last."""


def deep(num_steps: int, log_sizes: Callable[[int], object]) -> list[Observation]:
    """A run with that log10 gradient norm a layer, and noise."""
    random = np.random.default_rng(3)
    return [
        with_families(
            step,
            {
                "grad_norm": layers(
                    NAMES,
                    10.0
                    ** (np.asarray(log_sizes(step)) + 0.1 * random.standard_normal(len(NAMES))),
                )
            },
            loss=2.0,
        )
        for step in range(num_steps)
    ]


def totals(log_norms: object, losses: object, noise: float = 0.2) -> list[Observation]:
    """A run with that log10 total norm."""
    random = np.random.default_rng(4)
    heights, levels = np.broadcast_arrays(np.asarray(log_norms), np.asarray(losses))
    return [
        with_families(
            step,
            loss=float(level * (1.0 + 0.01 * random.standard_normal())),
            grad_norm=float(10.0**height * np.exp(noise * random.standard_normal())),
        )
        for step, (height, level) in enumerate(zip(heights, levels, strict=True))
    ]


def said(rows: list[Observation]) -> list[Finding]:
    """What the detector says of them."""
    return replayed(ExplodingGradient(), rows)


def test_growth_along_the_depth_is_a_warning_that_names_the_layer() -> None:
    """A factor of 2.5 a block, from the start, and over when it is over."""
    findings = said(deep(600, lambda step: 0.4 * HEIGHT if step < 300 else 0.0 * HEIGHT))
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    assert findings[0].onset_step == 0
    assert findings[0].detected_step <= 40
    assert findings[0].where.startswith(("blocks.0.", "blocks.1."))
    assert findings[1].end_step is not None


@pytest.mark.parametrize(
    "log_sizes",
    [
        lambda step: 0.2 * HEIGHT,
        lambda step: 3.0 * (np.arange(len(NAMES)) == 0),
        lambda step: 3.0 * (HEIGHT == 7.0),
        lambda step: 0.5 * HEIGHT * (step < 20),
        lambda step: np.where(HEIGHT > 5.0, 2.5, np.where(HEIGHT > 3.0, -1.0, 0.0)),
    ],
    ids=["mild", "embedding", "first_block", "first_steps", "not_steady"],
)
def test_what_is_no_steady_growth_along_the_depth_is_healthy(
    log_sizes: Callable[[int], object],
) -> None:
    """Each is a reason of its own for a first layer that differs."""
    assert said(deep(500, log_sizes)) == []


def test_norms_that_grow_tenfold_in_150_steps_are_a_warning() -> None:
    """Dated to about where the growth began."""
    t = np.arange(900)
    findings = said(totals(np.maximum(t - 500, 0) / 150.0, 2.0))
    assert findings[0].severity is Severity.WARNING
    assert 450 <= findings[0].onset_step <= 530
    assert findings[0].detected_step <= 700


def test_the_same_growth_under_a_falling_loss_is_a_run_that_gets_off_the_ground() -> None:
    """A plateau is left with growing gradients."""
    t = np.arange(900)
    growth = np.maximum(t - 500, 0) / 150.0
    assert (
        said(totals(np.minimum(growth, 1.5), 2.0 * np.exp(-np.maximum(t - 500, 0) / 500.0))) == []
    )


@pytest.mark.parametrize(
    "log_norms",
    [
        np.where(np.arange(900) < 500, 0.0, 1.5),
        np.where(np.arange(900) % 100 < 3, 3.0, 0.0),
        np.maximum(np.arange(900) - 500, 0) / 1_000.0,
        np.where((np.arange(900) > 400) & (np.arange(900) < 500), -2.0, 0.0),
        np.maximum(2.0 - np.arange(900) / 50.0, 0.0),
    ],
    ids=["jump", "spikes", "slow", "dip", "large_at_first"],
)
def test_what_is_no_growth_from_step_to_step_is_left_to_others(log_norms: object) -> None:
    """A jump and spikes are ``grad_spike``'s; the rest is healthy."""
    assert said(totals(log_norms, 2.0)) == []


def test_wild_gradients_are_healthy() -> None:
    """Heavy tails: a factor of e at one sigma, for 20,000 steps."""
    assert said(totals(np.zeros(20_000), 2.0, noise=1.0)) == []


def test_a_surge_beyond_a_thousand_times_the_usual_is_critical() -> None:
    """Growth by 5 % a step while the loss rises."""
    t = np.arange(700)
    growth = np.maximum(t - 400, 0) * np.log10(1.05)
    findings = said(totals(growth, 2.0 + 0.01 * np.maximum(t - 400, 0)))
    assert [finding.severity for finding in findings] == [Severity.WARNING, Severity.CRITICAL]
    assert findings[1].onset_step == findings[0].onset_step
    assert 400 + 140 <= findings[1].detected_step <= 400 + 170


@pytest.mark.parametrize("changes", [{"looks": 2}, {"ratio": 1.0}, {"surge": 5.0}])
def test_senseless_thresholds_are_refused(changes: dict[str, float]) -> None:
    """With the value in the error."""
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        ExplodingGradientConfig(**changes)  # type: ignore[arg-type]
