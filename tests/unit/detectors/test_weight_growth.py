"""Weights that grow or jump, and updates out of proportion to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lossguard.detectors import (
    Finding,
    Observation,
    Severity,
    WeightGrowth,
    WeightGrowthConfig,
)
from tests.support.layers import layers, replayed, with_families

NAMES = ("embed.weight", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "head.weight")
NORMS = np.array([40.0, 10.0, 0.05, 8.0, 5.0])
EVERY = 16

Sizes = Callable[[float], dict[int, float]]


def sampled(
    num_steps: int,
    norms: Sizes = lambda t: {},
    ratios: Sizes = lambda t: {},
    rate: Callable[[int], float] = lambda t: 1e-3,
) -> list[Observation]:
    """A run sampled every 16 steps, in which some norms and update ratios are multiplied."""
    random = np.random.default_rng(3)
    rows = []
    for step in range(num_steps):
        families = {}
        if step % EVERY == 0:
            sizes = NORMS * np.exp(0.002 * random.standard_normal(len(NORMS)))
            shares = rate(step) * np.exp(0.2 * random.standard_normal(len(NORMS)))
            for changed, factors in ((sizes, norms(step)), (shares, ratios(step))):
                for index, factor in factors.items():
                    changed[index] *= factor
            families = {"weight_norm": layers(NAMES, sizes), "update_ratio": layers(NAMES, shares)}
        rows.append(with_families(step, families, loss=1.0, lr=rate(step)))
    return rows


def said(rows: list[Observation], config: WeightGrowthConfig | None = None) -> list[Finding]:
    """What the detector says of them."""
    return replayed(WeightGrowth(config), rows)


def test_a_norm_that_grows_without_end_is_an_info_and_then_a_warning() -> None:
    """At three and at six times its settled level, with the name of the weight."""
    findings = said(sampled(4_000, lambda t: {3: 1.0 + max(t - 1_500.0, 0.0) / 300.0}))
    assert [finding.severity for finding in findings] == [Severity.INFO, Severity.WARNING]
    assert {(f.where, f.metric) for f in findings} == {("blocks.1.weight", "weight_norm")}
    assert 1_250 <= findings[0].onset_step <= 1_560


@pytest.mark.parametrize(
    "norms",
    [
        lambda t: {1: np.sqrt(1.0 + t / 50.0)},
        lambda t: {1: 1.0 + 9.0 * (1.0 - np.exp(-t / 150.0))},
        lambda t: {2: 1.0 + t / 100.0},
        lambda t: {1: 1.4 if t >= 1_600 else 1.0},
        lambda t: {1: 30.0 if t == 1_600 else 1.0},
        lambda t: {1: 0.2 if t >= 1_600 else 1.0},
    ],
    ids=["root", "levels_off", "bias", "step", "outlier", "shrinks"],
)
def test_growth_that_slows_down_or_does_not_matter_is_healthy(norms: Sizes) -> None:
    """Weights walk at random, and biases begin at zero."""
    assert said(sampled(5_000, norms)) == []


def test_a_jump_between_two_samples_is_a_warning() -> None:
    """By half, found with the second sample, dated to the last sample before it."""
    findings = said(sampled(3_000, lambda t: {1: 1.7 if t >= 1_610 else 1.0}))
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    assert (findings[0].onset_step, findings[0].detected_step) == (1_600, 1_632)
    assert findings[0].where == "blocks.0.weight"
    assert findings[1].end_step is not None


def test_updates_of_a_fifth_of_the_weight_are_a_warning() -> None:
    """In four samples in a row, dated to the last one before, over when they are small again."""
    findings = said(sampled(2_000, ratios=lambda t: {4: 200.0 if 800 <= t < 1_000 else 1.0}))
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    assert (findings[0].where, findings[0].metric) == ("head.weight", "update_ratio")
    assert findings[0].onset_step == 784
    assert findings[0].detected_step == 848
    assert findings[1].end_step == 992


def test_updates_that_do_nothing_are_an_info() -> None:
    """1e-10 of the weight, at the full learning rate."""
    findings = said(sampled(1_000, ratios=lambda t: {1: 1e-7}))
    assert [(f.severity, f.where) for f in findings] == [(Severity.INFO, "blocks.0.weight")]


@pytest.mark.parametrize(
    ("ratios", "rate"),
    [
        (lambda t: {1: 200.0 if t < 128 else 1.0}, lambda t: 1e-3),
        (lambda t: {2: 500.0}, lambda t: 1e-3),
        (lambda t: {1: 200.0 if t % 64 == 0 else 1.0}, lambda t: 1e-3),
        (lambda t: {1: 0.0}, lambda t: 1e-3),
        (lambda t: {}, lambda t: 1e-3 if t < 1_000 else 1e-10),
    ],
    ids=["first_steps", "bias", "now_and_then", "frozen", "decayed"],
)
def test_other_updates_out_of_the_band_are_healthy(
    ratios: Sizes, rate: Callable[[int], float]
) -> None:
    """Each for a reason of its own."""
    assert said(sampled(2_000, ratios=ratios, rate=rate)) == []


def test_the_norm_of_an_embedding_has_a_bound_only_where_one_is_set() -> None:
    """40 is nothing for a large vocabulary, unless the user says otherwise."""
    rows = sampled(600)
    assert said(rows) == []
    findings = said(rows, WeightGrowthConfig(embedding_norm=10.0))
    assert [(f.severity, f.where) for f in findings] == [(Severity.WARNING, "embed.weight")]
    assert said(rows, WeightGrowthConfig(embedding_norm=50.0)) == []


def test_a_rollback_is_no_jump() -> None:
    """Weights that were put back stand elsewhere."""
    detector = WeightGrowth()
    rows = sampled(2_000, lambda t: {1: 2.0 if t < 1_600 else 4.0 - t / 800.0})
    assert replayed(detector, rows[:1_600]) == []
    detector.rewind(1_000)
    assert replayed(detector, sampled(2_000, lambda t: {1: 4.0})[1_001:1_600]) == []


@pytest.mark.parametrize(
    "changes",
    [{"settle": 8}, {"jump": 1.0}, {"strong_growth": 2.0}, {"embedding_norm": 0.0}, {"samples": 1}],
)
def test_senseless_thresholds_are_refused(changes: dict[str, float]) -> None:
    """With the value in the error."""
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        WeightGrowthConfig(**changes)  # type: ignore[arg-type]
