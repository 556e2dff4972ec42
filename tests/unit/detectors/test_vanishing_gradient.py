"""Gradients that vanish towards the input, or altogether."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lossguard.detectors import (
    Finding,
    Observation,
    Severity,
    VanishingGradient,
    VanishingGradientConfig,
)
from tests.support.layers import BLOCKS, layers, replayed, with_families

NAMES = ("embed.weight", *BLOCKS, "norm.weight", "head.weight", "head.bias")
LOG_DECAY = np.array([0.0, *(int(name.split(".")[1]) - 7.0 for name in BLOCKS), 0.0, 0.0, 0.0])
"""log10 of the gradient norm of each layer where a block passes a tenth of it on."""


def run(
    num_steps: int, decay: float = 1.0, falling: float = 1e-3, start: int = 0, stop: int = 10**9
) -> Iterator[Observation]:
    """A run whose gradients shrink by 10^decay a block from ``start`` to ``stop``."""
    random = np.random.default_rng(3)
    for step in range(num_steps):
        slope = decay if start <= step < stop else 0.05
        norms = 0.1 * 10.0 ** (slope * LOG_DECAY + 0.1 * random.standard_normal(len(NAMES)))
        loss = 2.0 * np.exp(-falling * step) * (1.0 + 0.01 * random.standard_normal())
        total = float(np.linalg.norm(norms))
        families = {"grad_norm": layers(NAMES, norms)}
        yield with_families(step, families, loss=float(loss), grad_norm=total)


def said(observations: Iterator[Observation] | list[Observation]) -> list[Finding]:
    """What the detector says of them."""
    return replayed(VanishingGradient(), observations)


def test_decay_along_the_depth_from_the_start_is_named_with_its_layer() -> None:
    """An info within 40 steps, dated to the first step, at the layer that gets least."""
    first = said(run(100, decay=0.45))[0]
    assert first.severity is Severity.INFO
    assert (first.onset_step, first.metric) == (0, "grad_norm")
    assert first.detected_step <= 40
    assert first.where.startswith("blocks.0.")


def test_it_is_a_warning_when_the_loss_makes_no_progress() -> None:
    """The same decay under a loss that stands still."""
    last = said(run(300, decay=0.45, falling=0.0))[-1]
    assert last.severity is Severity.WARNING
    assert "no progress" in last.message
    assert {finding.severity for finding in said(run(300, decay=0.45))} == {Severity.INFO}


def test_a_severe_decay_that_lasts_is_a_warning_though_the_loss_falls() -> None:
    """A ratio below 1e-4 for 128 steps."""
    findings = said(run(300))
    assert [finding.severity for finding in findings] == [Severity.INFO, Severity.WARNING]
    assert findings[1].detected_step >= 128


def test_decay_in_mid_run_is_dated_and_ends() -> None:
    """Dated within a stride of eight steps; over once most looks are fine."""
    findings = said(run(1_400, start=700, stop=1_000))
    assert 692 <= findings[0].onset_step <= 700
    assert findings[0].detected_step <= 830
    assert findings[-1].end_step is not None
    assert 980 <= findings[-1].end_step <= 1_130


@pytest.mark.parametrize(
    "changes", [{"decay": 0.3}, {"decay": 1.0, "stop": 24}, {"decay": -1.0}, {"decay": 0.0}]
)
def test_a_mild_or_short_decay_is_healthy(changes: dict[str, float]) -> None:
    """A factor of 100 in all, one in the first steps only, growth, or none."""
    assert said(run(800, **changes)) == []  # type: ignore[arg-type]


def test_a_small_gradient_everywhere_is_no_decay() -> None:
    """Norms of 1e-9 in all layers are a matter of scale."""
    quiet = [
        with_families(step, {"grad_norm": layers(NAMES, [1e-9] * len(NAMES))}, loss=1.0)
        for step in range(400)
    ]
    assert said(quiet) == []


@pytest.mark.parametrize("absent", [0.0, None])
def test_frozen_layers_do_not_vanish(absent: float | None) -> None:
    """No gradient at all in the lower half, as a zero or not measured."""
    values = [absent if 1 <= i <= 12 else 1.0 for i in range(len(NAMES))]
    frozen = [
        with_families(step, {"grad_norm": layers(NAMES, values)}, loss=1.0) for step in range(400)
    ]
    assert said(frozen) == []


def test_small_gradients_of_norms_and_embeddings_are_nature() -> None:
    """Only weights of the same kind are compared."""
    values = [1e-8 if "norm" in name or "embed" in name else 0.1 for name in NAMES]
    healthy = [
        with_families(step, {"grad_norm": layers(NAMES, values)}, loss=1.0) for step in range(400)
    ]
    assert said(healthy) == []


def totals(num_steps: int, start: int, fall: float, loss_after: float) -> list[Observation]:
    """A total norm that falls at ``start``, and a loss that goes to ``loss_after`` with it."""
    random = np.random.default_rng(4)
    rows = []
    for step in range(num_steps):
        norm = np.exp(0.3 * random.standard_normal()) * (fall if step >= start else 1.0)
        loss = 2.0 if step < start else loss_after
        loss *= 1.0 + 0.01 * random.standard_normal()
        rows.append(with_families(step, loss=float(loss), grad_norm=float(norm)))
    return rows


@pytest.mark.parametrize("fall", [1e-5, 0.0])
def test_a_total_norm_that_collapses_under_a_high_loss_is_a_warning(fall: float) -> None:
    """Dated to the step."""
    findings = said(totals(600, 300, fall, 2.0))
    assert [finding.severity for finding in findings] == [Severity.WARNING]
    assert findings[0].onset_step == 300
    assert findings[0].detected_step <= 450


def test_a_norm_that_falls_because_the_loss_is_small_is_healthy() -> None:
    """Nothing is left to learn."""
    assert said(totals(800, 300, 1e-5, 0.01)) == []


def test_a_norm_that_falls_a_hundredfold_is_healthy() -> None:
    """Gradients shrink in every run."""
    assert said(totals(800, 300, 1e-2, 2.0)) == []


def test_single_zeros_are_nothing() -> None:
    """A log that writes 0 in every second row."""
    rows = totals(600, 10**9, 1.0, 2.0)
    holes = [with_families(o.step, loss=2.0, grad_norm=0.0) if o.step % 2 else o for o in rows]
    assert said(holes) == []


@pytest.mark.parametrize(
    "changes", [{"looks": 1}, {"ratio": 0.0}, {"severe_ratio": 0.1}, {"small_loss": -1.0}]
)
def test_senseless_thresholds_are_refused(changes: dict[str, float]) -> None:
    """With the value in the error."""
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        VanishingGradientConfig(**changes)  # type: ignore[arg-type]
