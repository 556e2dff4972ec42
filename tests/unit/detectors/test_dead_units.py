"""Layers that put out zeros, are saturated, or get no gradient any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from lossguard.detectors import (
    DeadUnits,
    DeadUnitsConfig,
    Family,
    Finding,
    Observation,
    Severity,
)
from tests.support.layers import layers, replayed, with_families

ACTS = tuple(f"blocks.{i}.act" for i in range(5))
KINDS = ("weight", "bias")
WEIGHTS = ("embed.weight", *(f"blocks.{i}.fc.{kind}" for i in range(5) for kind in KINDS))
EVERY = 16

Values = Sequence[float | None]


def sampled(
    family: str, shares: Callable[[int], Values], num_samples: int = 40, falling: bool = True
) -> list[Observation]:
    """A run with that family at every 16th step, all missing in between, as it comes live."""
    random = np.random.default_rng(3)
    rows = []
    for step in range(EVERY * num_samples):
        values: Values = shares(step // EVERY) if step % EVERY == 0 else [None] * len(ACTS)
        loss = 2.0 * np.exp(-1e-3 * step * falling) * (1.0 + 0.01 * random.standard_normal())
        rows.append(with_families(step, {family: layers(ACTS, values)}, loss=float(loss)))
    return rows


def gradients(
    norms: Callable[[int], Values], num_steps: int, names: Sequence[str] = WEIGHTS
) -> list[Observation]:
    """A run with those gradient norms."""
    return [
        with_families(step, {"grad_norm": layers(names, norms(step))}, loss=2.0 - 1e-3 * step)
        for step in range(num_steps)
    ]


def said(rows: list[Observation]) -> list[Finding]:
    """What the detector says of them."""
    return replayed(DeadUnits(), rows)


def test_a_layer_of_zeros_is_found_after_four_samples_and_named() -> None:
    """Dated to the first step after the last sample that was well; over when it is over."""
    findings = said(sampled("zero_share", lambda n: [0.5, 0.6, 1.0 if 10 <= n < 20 else 0.5, 0, 0]))
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    opened, ended = findings
    assert (opened.where, opened.metric) == ("blocks.2.act", "zero_share")
    assert opened.onset_step == 9 * EVERY + 1
    assert opened.detected_step == 13 * EVERY
    assert ended.end_step == 19 * EVERY


def test_the_dead_layer_closest_to_the_input_is_named() -> None:
    """What comes after it may be dead because of it."""
    findings = said(sampled("zero_share", lambda n: [0.5, 1.0, 0.5, 1.0, 1.0], 8))
    assert [finding.where for finding in findings] == ["blocks.1.act"]


@pytest.mark.parametrize(
    "shares",
    [
        lambda n: [0.5, 0.9, 0.97, 0.5, 0.5],
        lambda n: [0.5, 1.0 if n % 10 < 3 else 0.6, 0.5, 0.5, 0.5],
        lambda n: [1.0 if n % 5 == i else 0.5 for i in range(5)],
        lambda n: [1.0 if n < 3 else 0.5] * 5,
    ],
    ids=["sparse", "three_samples", "taking_turns", "first_samples"],
)
def test_sparse_or_short_lived_zeros_are_healthy(shares: Callable[[int], Values]) -> None:
    """ReLUs put out 50 to 90 % zeros, and experts take turns."""
    assert said(sampled("zero_share", shares)) == []


def test_a_very_sparse_layer_is_an_info_while_the_loss_falls() -> None:
    """98.5 % zeros are a sparse layer of a large model, or a dying one."""
    shares = [0.5, 0.985, 0.5, 0.5, 0.5]
    assert [f.severity for f in said(sampled("zero_share", lambda n: shares))] == [Severity.INFO]
    stuck = said(sampled("zero_share", lambda n: shares, falling=False))
    assert stuck[-1].severity is Severity.WARNING


def test_a_layer_that_saturates_in_the_course_of_the_run_is_named() -> None:
    """An info, and a warning once the loss stands still; the rest of the layers are well."""

    def saturating(n: int) -> Values:
        return [0.02, min(0.05 * n, 0.9), 0.02, 0.02, 0.02]

    moving = said(sampled("saturated_share", saturating))
    assert [(f.severity, f.where) for f in moving] == [(Severity.INFO, "blocks.1.act")]
    stuck = said(sampled("saturated_share", saturating, falling=False))
    assert stuck[-1].severity is Severity.WARNING


def test_the_output_of_the_model_may_be_sure_of_itself() -> None:
    """The last sigmoid is left out."""
    rows = sampled("saturated_share", lambda n: [0.02] * 4 + [min(0.05 * n, 1.0)], falling=False)
    assert said(rows) == []


def test_a_layer_that_is_saturated_from_the_start_is_trouble_only_if_nothing_moves() -> None:
    """Some gates are meant to be closed."""
    shares = [0.02, 0.8, 0.02, 0.02, 0.02]
    assert said(sampled("saturated_share", lambda n: shares)) == []
    stuck = said(sampled("saturated_share", lambda n: shares, falling=False))
    assert [finding.severity for finding in stuck] == [Severity.WARNING]


def test_a_weight_that_gets_no_gradient_any_more_is_named() -> None:
    """After 100 steps of exactly zero, dated to the first of them."""
    findings = said(gradients(lambda t: [0.1] * 5 + [0.1 if t < 200 else 0.0] + [0.1] * 5, 400))
    assert [finding.severity for finding in findings] == [Severity.WARNING]
    assert (findings[0].where, findings[0].metric) == ("blocks.2.fc.weight", "grad_norm")
    assert (findings[0].onset_step, findings[0].detected_step) == (200, 299)


@pytest.mark.parametrize(
    "norms",
    [
        lambda t: [0.1] * 5 + [0.0 if 200 <= t < 299 else 0.1] + [0.1] * 5,
        lambda t: [0.0] * 5 + [0.1] * 6,
        lambda t: [None] * 5 + [0.1] * 6,
        lambda t: [0.1] * 5 + [0.1 if t < 200 else None] + [0.1] * 5,
        lambda t: [0.0 if (t // 90) % 5 == i // 2 else 0.1 for i in range(11)],
        lambda t: [0.1] * 2 + [0.1 if t < 200 else 0.0] + [0.1] * 8,
        lambda t: [0.1 if t < 200 else 0.0] * 11,
        lambda t: [1e-30 if t > 200 else 0.1] + [0.1] * 10,
    ],
    ids=["99_steps", "frozen", "absent", "frozen_later", "taking_turns", "bias", "all", "tiny"],
)
def test_other_zeros_are_no_dead_layer(norms: Callable[[int], Values]) -> None:
    """Each for a reason of its own."""
    assert said(gradients(norms, 450)) == []


def test_an_expert_without_tokens_is_an_info() -> None:
    """It may get some again."""
    names = [f"layers.{i}.experts.{j}.w.weight" for i in range(2) for j in range(3)]
    findings = said(gradients(lambda t: [0.1 if t < 200 else 0.0] + [0.1] * 5, 400, names))
    assert [finding.severity for finding in findings] == [Severity.INFO]


def test_shares_that_are_no_shares_are_ignored() -> None:
    """NaN, Inf and what is above 1 enter nothing."""
    shares = [float("nan"), float("inf"), 7.0, -1.0, 0.5]
    assert said(sampled("zero_share", lambda n: shares)) == []
    assert said(sampled("saturated_share", lambda n: shares, falling=False)) == []


def test_a_family_without_layers_is_nothing() -> None:
    """As a model without activations gives it."""
    empty = Family((), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    rows = [with_families(t, {"zero_share": empty, "grad_norm": empty}, loss=1.0) for t in range(9)]
    assert said(rows) == []


@pytest.mark.parametrize(
    "changes", [{"zero_share": 1.5}, {"samples": 1}, {"all_zero": 0.5}, {"above_start": -1.0}]
)
def test_senseless_thresholds_are_refused(changes: dict[str, float]) -> None:
    """With the value in the error."""
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        DeadUnitsConfig(**changes)  # type: ignore[arg-type]
