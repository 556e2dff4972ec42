"""Nonfinite: the first NaN or Inf, and whose it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lossguard.detectors import Family, Finding, Nonfinite, NonfiniteConfig, Observation, Severity

SKIP_SCALER = 16.0


def feed(detector: Nonfinite, rows: Sequence[dict[str, float]], start: int = 0) -> list[Finding]:
    """The findings on one row of values a step."""
    said = (detector.update(Observation(start + i, row)) for i, row in enumerate(rows))
    return [finding for finding in said if finding is not None]


def family(values: Sequence[float], prefix: str, missing: Sequence[int] = ()) -> Family:
    """A family of values named prefix0, prefix1, ..."""
    mask = np.zeros(len(values), np.bool_)
    mask[list(missing)] = True
    names = [f"{prefix}{i}" for i in range(len(values))]
    return Family(names, np.array(values, np.float32), mask)


@pytest.mark.parametrize("metric", ["loss", "grad_norm", "val_loss"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_value_is_one_critical_episode(metric: str, bad: float) -> None:
    """One bad step opens a critical episode there, and three finite steps end it."""
    rows = [{"loss": 2.0, metric: 1.0} for _ in range(20)]
    rows[7][metric] = bad
    first, last = feed(Nonfinite(), rows)
    assert (first.severity, first.metric, first.onset_step) == (Severity.CRITICAL, metric, 7)
    assert (first.detected_step, first.end_step) == (7, None)
    assert (last.onset_step, last.detected_step, last.end_step) == (7, 10, 7)


def test_finite_values_of_any_size_are_silent() -> None:
    """The healthy twin: huge, tiny, zero and negative are finite."""
    rows = [{"loss": value, "grad_norm": value} for value in (1e38, 1e-38, 0.0, -5.0, 1e300)]
    assert feed(Nonfinite(), rows) == []


def test_five_in_a_row_are_called_persistent() -> None:
    """A run that stays NaN renews its finding once, with the count, under the same onset."""
    rows = [{"loss": 2.0}] * 3 + [{"loss": math.nan}] * 50
    first, renewed = feed(Nonfinite(), rows)
    assert first.evidence["consecutive"] == 1
    assert (renewed.onset_step, renewed.detected_step) == (3, 7)
    assert renewed.evidence["consecutive"] == 5
    assert "persistent" in renewed.message


def test_overflow_of_the_scaler_is_normal_life() -> None:
    """An Inf gradient that GradScaler itself skips, under a finite loss, raises nothing."""
    rows = [{"loss": 2.0, "grad_norm": math.inf, "skipped": SKIP_SCALER}] * 16
    assert feed(Nonfinite(), rows) == []
    rows = [{"loss": 2.0, "grad_norm": math.nan, "loss_scale": 2.0**16}] * 3
    assert feed(Nonfinite(), rows) == []


def test_a_bad_loss_is_critical_even_under_a_scaler() -> None:
    """A NaN loss is not what GradScaler searches for."""
    rows = [{"loss": math.nan, "grad_norm": math.nan, "skipped": SKIP_SCALER}]
    (finding,) = feed(Nonfinite(), rows)
    assert finding.metric == "loss"


def test_the_first_bad_activation_is_to_blame() -> None:
    """Of several bad activations the first in forward order is named, before any gradient."""
    families = {
        "act_rms": family([1.0, math.inf, math.nan, math.nan], "block", missing=[1]),
        "grad_norm": family([math.nan] * 3, "weight"),
    }
    values = {"loss": math.nan, "grad_norm": math.nan}
    finding = Nonfinite().update(Observation(5, values, families=families))
    assert finding is not None
    assert finding.where == "block2"


def test_without_a_bad_activation_the_gradient_nearest_the_loss_is_to_blame() -> None:
    """The last bad parameter is the first that backward met."""
    families = {
        "act_rms": family([1.0, 2.0], "block"),
        "grad_norm": family([math.nan, math.nan, 1.0], "weight"),
    }
    finding = Nonfinite().update(Observation(5, {"loss": 2.0}, families=families))
    assert finding is not None
    assert (finding.metric, finding.where) == ("grad_norm", "weight1")


def test_layers_that_were_not_measured_are_not_bad() -> None:
    """What stands in a missing entry does not count."""
    families = {"act_rms": family([1.0, math.nan], "block", missing=[1])}
    assert Nonfinite().update(Observation(5, {"loss": 2.0}, families=families)) is None


def test_impossible_thresholds_are_refused() -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match="calm_steps must be >= 1, got 0"):
        NonfiniteConfig(calm_steps=0)
    with pytest.raises(ValueError, match="got 1"):
        NonfiniteConfig(persistent_steps=1)


def losses(values: list[float], **others: float) -> list[Observation]:
    """Steps with these losses."""
    return [Observation(step, {"loss": x, **others}) for step, x in enumerate(values)]


def said_of(run: list[Observation]) -> list[Finding]:
    """All that a fresh detector says about it."""
    detector = Nonfinite()
    return [f for f in map(detector.update, run) if f is not None]


def test_a_nan_that_was_logged_as_zero_is_found() -> None:
    """A loss of 2.1 that is exactly 0 for three steps is no loss; dated to its first zero."""
    (finding,) = said_of(losses([2.4, 2.3, 2.2, 2.1, 0.0, 0.0, 0.0, 0.0]))
    assert (finding.onset_step, finding.detected_step, finding.metric) == (4, 6, "loss")
    assert finding.severity is Severity.CRITICAL


def test_a_zero_with_no_gradient_is_found_at_once() -> None:
    """The gradient norm says it: zero, or not finite, where the loss is zero at once."""
    run = losses([2.4, 2.3, 2.2])
    run.append(Observation(3, {"loss": 0.0, "grad_norm": 0.0}))
    (finding,) = said_of(run)
    assert finding.onset_step == finding.detected_step == 3


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 20,
        [0.0, 0.0, 0.001, -0.002, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.3, 0.09, 0.02, 0.004, 0.0009, 0.0, 0.0, 0.0, 0.0],
        [2.4, 0.0, 2.3, 2.2, 0.0, 2.1, 2.0],
        [1.5, 1.2, 0.7, 0.4, 0.1, 0.02, 0.0, 0.0, 0.0],
    ],
)
def test_a_loss_that_may_be_zero_is_left_alone(values: list[float]) -> None:
    """Zero from the start, fitted away, rounded, or zero for a step: nothing."""
    assert said_of(losses(values)) == []


def test_losses_after_zeros_end_the_episode() -> None:
    """A skipped batch leaves the next losses as they were."""
    first, last = said_of(losses([2.4, 2.3, 2.2, 2.1, 0.0, 0.0, 0.0, 2.1, 2.0, 2.0, 1.9]))
    assert first.end_step is None
    assert last.end_step == 6
