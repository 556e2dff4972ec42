"""Falling behind one's own curve or a reference run; and curves that do nothing of the kind."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors import Severity, SlowConvergence, SlowConvergenceConfig
from tests.support.curves import Array, findings, noisy, power_law, warnings

AT = 3_000


def frozen(num_steps: int, at: int = AT) -> Array:
    """A power law that stops at ``at``: not a step of progress after it."""
    trend = power_law(num_steps, 0.5)
    trend[at:] = trend[at]
    return trend


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_a_curve_that_stops_falling_is_noted(seed: int, noise: float) -> None:
    """No progress from 3,000 on: a line by 6,000, dated to within 700 steps."""
    said = findings(SlowConvergence(), loss=noisy(frozen(8_000), noise, seed))
    assert said
    assert said[0].severity is Severity.INFO
    assert AT - 400 <= said[0].onset_step <= AT + 1_000
    assert said[0].detected_step <= 2 * AT
    assert said[0].evidence["expected"] < said[0].evidence["loss"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.003, 0.02, 0.1])
@pytest.mark.parametrize("floor", [0.0, 0.5, 2.5])
def test_a_power_law_is_silent(seed: int, noise: float, floor: float) -> None:
    """The healthy twin, with any floor."""
    assert findings(SlowConvergence(), loss=noisy(power_law(8_000, floor), noise, seed)) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_decay_of_the_learning_rate_is_silent(seed: int) -> None:
    """A cosine lets the loss fall faster at the end, a step lets it fall at once."""
    t = np.arange(8_000)
    cosine = power_law(8_000) - 0.2 * np.clip((t - 5_000) / 3_000, 0.0, 1.0) ** 2
    step = power_law(8_000) - 0.15 * np.clip((t - 4_000) / 100.0, 0.0, 1.0)
    assert findings(SlowConvergence(), loss=noisy(cosine, 0.01, seed)) == []
    assert findings(SlowConvergence(), loss=noisy(step, 0.01, seed)) == []


@pytest.mark.parametrize("seed", range(4))
def test_convergence_to_a_floor_is_no_warning(seed: int) -> None:
    """An exponential reaches its floor and stays: at most a line."""
    trend = 0.8 + 2.0 * np.exp(-np.arange(6_000) / 700.0)
    assert warnings(findings(SlowConvergence(), loss=noisy(trend, 0.02, seed))) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_young_curve_may_have_kinks(seed: int) -> None:
    """Fast for 300 steps and slow after, as language models are: no forecast is believed yet."""
    t = np.arange(3_000)
    trend = np.where(t < 300, 10.8 - 5.8 * t / 300, 5.0 * (1.0 + (t - 300) / 900.0) ** -0.25)
    assert findings(SlowConvergence(), loss=noisy(trend, 0.01, seed)) == []


def test_a_rise_is_left_to_divergence() -> None:
    """Half as much again in 500 steps."""
    trend = frozen(6_000) * (1.0 + 0.5 * np.clip((np.arange(6_000) - AT) / 500.0, 0.0, 1.0))
    assert findings(SlowConvergence(), loss=noisy(trend, 0.02, 0)) == []


def test_forty_epochs_are_enough() -> None:
    """A validation loss on each row says that rows are epochs; frozen from the 18th on."""
    t = np.arange(40)
    trend = 0.5 + 2.0 * (1.0 + t / 3.0) ** -0.7
    healthy = noisy(trend, 0.003, 0)
    trend[18:] = trend[18]
    slow = noisy(trend, 0.003, 0)
    assert findings(SlowConvergence(), loss=healthy, val_loss=healthy) == []
    said = findings(SlowConvergence(), loss=slow, val_loss=slow)
    assert said
    assert 15 <= said[0].onset_step <= 26


def test_the_episode_ends_when_the_curve_is_caught_up_with() -> None:
    """Frozen for 2,500 steps, then back on the old curve: the end, and no second episode."""
    trend = power_law(12_000, 0.5)
    trend[AT : AT + 2_500] = trend[AT]
    said = findings(SlowConvergence(), loss=noisy(trend, 0.01, 0))
    assert [f.end_step is None for f in said] == [True, False]
    assert AT + 2_000 <= (said[1].end_step or 0) <= AT + 2_900


def reference() -> tuple[tuple[float, float], ...]:
    """A run that was logged every tenth step."""
    loss = noisy(power_law(6_000), 0.01, 77)
    return tuple((float(step), float(loss[step])) for step in range(0, 6_000, 10))


@pytest.mark.parametrize("seed", range(4))
def test_falling_behind_the_reference_is_a_warning(seed: int) -> None:
    """From 1,500 on a fifth of the descent behind: a warning soon after, dated near it."""
    config = SlowConvergenceConfig(reference=reference())
    loss = power_law(4_000)
    loss[1_500:] += 0.2 * (loss[0] - loss[1_500:])
    (found,) = warnings(findings(SlowConvergence(config), loss=noisy(loss, 0.01, seed)))
    assert abs(found.onset_step - 1_500) <= 130
    assert found.detected_step <= 1_800
    assert "reference" in found.message


@pytest.mark.parametrize("seed", range(4))
def test_keeping_up_with_the_reference_is_silent(seed: int) -> None:
    """The healthy twin, noise and all, also beyond the end of the reference."""
    config = SlowConvergenceConfig(reference=reference())
    assert findings(SlowConvergence(config), loss=noisy(power_law(8_000), 0.02, seed)) == []


@pytest.mark.parametrize("seed", range(4))
def test_another_beginning_than_that_of_the_reference_is_silent(seed: int) -> None:
    """Its first steps were those of a lucky seed: a tenth of its length further up, for a while."""
    config = SlowConvergenceConfig(reference=reference())
    loss = power_law(4_000)
    loss[:400] += 0.3 * (loss[0] - loss[:400])
    assert warnings(findings(SlowConvergence(config), loss=noisy(loss, 0.01, seed))) == []


def test_being_ahead_of_the_reference_is_silent() -> None:
    """Twice as fast."""
    config = SlowConvergenceConfig(reference=reference())
    t = np.arange(4_000)
    assert findings(SlowConvergence(config), loss=2.5 + 8.0 * (1.0 + t / 2.5) ** -0.5) == []


@pytest.mark.parametrize(
    "wrong",
    [{"fitted": 0.9}, {"shortfall": 0.0}, {"material": 0.0}, {"reference": ((0.0, 1.0),)}],
)
def test_wrong_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """Before the run, not in it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SlowConvergenceConfig(**wrong)  # type: ignore[arg-type]
