"""A second moment that a giant gradient has poisoned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lossguard.detectors import (
    Finding,
    Observation,
    OptimizerState,
    OptimizerStateConfig,
    Severity,
)
from tests.support.layers import layers, replayed, with_families

NAMES = tuple(f"blocks.{i}.weight" for i in range(8))
EVERY = 16
GIANT_AT = 700


def trained(
    num_steps: int,
    update: Callable[[int], float] = lambda t: 1.0,
    norm: Callable[[int], float] = lambda t: 1000.0 if t == GIANT_AT else 1.0,
    rate: Callable[[int], float] = lambda t: 1e-3,
    skipped: float = 0.0,
) -> list[Observation]:
    """A run with those updates, over weight and learning rate."""
    random = np.random.default_rng(3)
    rows = []
    for step in range(num_steps):
        total = norm(step) * np.exp(0.2 * random.standard_normal())
        values = {"grad_norm": float(total), "lr": rate(step)}
        values["skipped"] = skipped if step == GIANT_AT else 0.0
        families = {}
        if step % EVERY == 0:
            shares = update(step) * rate(step) * np.exp(0.2 * random.standard_normal(len(NAMES)))
            families = {"update_ratio": layers(NAMES, shares)}
        rows.append(with_families(step, families, **values))
    return rows


def said(rows: list[Observation]) -> list[Finding]:
    """What the detector says of them."""
    return replayed(OptimizerState(), rows)


def after_adam(step: int, beta2: float = 0.999, times: float = 1000.0) -> float:
    """Updates of Adam, of their usual size, after a gradient of that many times the usual."""
    since = step - GIANT_AT
    if since < 0:
        return 1.0
    first = 1.0 + 0.1 * times * 0.9**since
    second = 1.0 + (1.0 - beta2) * times**2 * beta2**since
    return float(first / np.sqrt(second))


def test_updates_that_stay_small_after_a_giant_gradient_are_a_warning() -> None:
    """Dated to the giant's step, with its size and the cure; over when Adam has forgotten it."""
    findings = said(trained(10_000, after_adam))
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    opened, ended = findings
    assert (opened.onset_step, opened.metric) == (GIANT_AT, "update_ratio")
    assert opened.detected_step <= GIANT_AT + 250
    assert opened.evidence["times"] > 500.0
    assert "roll back" in opened.message
    assert ended.end_step is not None
    assert ended.end_step >= 3_000


@pytest.mark.parametrize(
    "run",
    [
        trained(1_500),
        trained(1_500, lambda t: after_adam(t, times=60.0)),
        trained(1_500, lambda t: 1.0 if t < GIANT_AT else 0.4),
        trained(1_500, norm=lambda t: 1.0, update=lambda t: 1.0 if t < 700 else 0.05),
        trained(1_500, rate=lambda t: 1e-3 if t <= GIANT_AT else 1e-5),
        trained(1_500, lambda t: 0.05 if GIANT_AT < t < GIANT_AT + 30 else 1.0),
        trained(1_500, after_adam, skipped=2.0),
        trained(1_500, after_adam, norm=lambda t: 1000.0 if t >= GIANT_AT else 1.0),
    ],
    ids=[
        "clipped",
        "large",
        "halved",
        "no_giant",
        "lower_lr",
        "two_samples",
        "skipped",
        "still_giant",
    ],
)
def test_what_is_no_poisoned_moment_is_left_alone(run: list[Observation]) -> None:
    """Each lacks one of the signs."""
    assert said(run) == []


def test_a_second_giant_is_found_as_well() -> None:
    """After a first one that did no harm."""
    rows = trained(
        2_000,
        lambda t: 1.0 if t < 1_200 else 0.05,
        norm=lambda t: 1000.0 if t in (GIANT_AT, 1_200) else 1.0,
    )
    assert [finding.onset_step for finding in said(rows)] == [1_200]


def test_without_a_learning_rate_the_ratio_itself_is_judged() -> None:
    """A log may lack it."""
    rows = [
        with_families(o.step, o.families, grad_norm=o.values["grad_norm"])
        for o in trained(1_200, after_adam)
    ]
    assert [finding.onset_step for finding in said(rows)] == [GIANT_AT]


@pytest.mark.parametrize("changes", [{"giant": 2.0}, {"collapse": 0.7}, {"samples": 1}])
def test_senseless_thresholds_are_refused(changes: dict[str, float]) -> None:
    """With the value in the error."""
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        OptimizerStateConfig(**changes)  # type: ignore[arg-type]
