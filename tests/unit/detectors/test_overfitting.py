"""Overfitting: validation rises while training does not; and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors import Overfitting, OverfittingConfig, Severity
from tests.support.curves import Array, every, findings, noisy, power_law, warnings

TURN = 14


def training(num_epochs: int, seed: int = 0) -> Array:
    """The training loss of each epoch: it falls all the time."""
    return noisy(2.3 * np.exp(-np.arange(num_epochs) / 12.0) + 0.05, 0.01, seed)


def validation(num_epochs: int, rise: float, seed: int = 0, noise: float = 0.01) -> Array:
    """The validation loss of each epoch: it falls to 1.1 by ``TURN`` and then rises."""
    t = np.arange(num_epochs)
    trend = 1.1 + 1.2 * np.clip(1.0 - t / TURN, 0.0, None) ** 2 + rise * np.clip(t - TURN, 0, None)
    return noisy(trend, noise, seed + 100)


@pytest.mark.parametrize("seed", range(5))
def test_a_log_of_thirty_epochs_that_overfits_is_a_warning(seed: int) -> None:
    """5 % an epoch: found within six epochs of the turn, dated to it, the best named."""
    val = validation(30, 0.05, seed)
    (found,) = warnings(findings(Overfitting(), loss=training(30, seed), val_loss=val))
    assert abs(found.onset_step - TURN) <= 2
    assert found.detected_step <= TURN + 6
    best = int(found.evidence["best_step"])
    assert abs(best - TURN) <= 3
    assert f"was at step {best}" in found.message
    assert found.evidence["best"] == pytest.approx(float(val[best]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_a_validation_loss_that_levels_off_is_silent(seed: int, noise: float) -> None:
    """The healthy twin: it stays at its best while the training loss goes on falling."""
    val = validation(60, 0.0, seed, noise)
    assert findings(Overfitting(), loss=training(60, seed), val_loss=val) == []


@pytest.mark.parametrize("seed", range(5))
def test_evaluations_between_many_steps_are_enough(seed: int) -> None:
    """A loss on each step and an evaluation on every 100th: found and dated to an evaluation."""
    loss = noisy(power_law(6_000, 0.5), 0.1, seed)
    val = every(6_000, 100, validation(60, 0.03, seed))
    (found,) = warnings(findings(Overfitting(), loss=loss, val_loss=val))
    assert abs(found.onset_step - (TURN * 100 + 99)) <= 300
    assert found.detected_step <= (TURN + 8) * 100


def test_evaluations_on_rows_of_their_own_are_joined_with_the_losses_before() -> None:
    """A log that writes the validation loss on a row without a training loss is no worse."""
    loss, val = np.repeat(training(30), 2), np.full(60, np.nan)
    val[1::2] = validation(30, 0.05)
    loss[1::2] = np.nan
    (found,) = warnings(findings(Overfitting(), loss=loss, val_loss=val))
    assert abs(found.onset_step - 2 * TURN) <= 4


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_rise_is_found_by_its_trend(seed: int) -> None:
    """0.5 % an epoch never gets to 1.1 times the best: the trend over many epochs tells."""
    val = validation(40, 0.0055, seed, noise=0.003)
    (found,) = warnings(findings(Overfitting(), loss=training(40, seed), val_loss=val))
    assert float(np.max(val[TURN:])) < 1.1 * 1.1 * 1.05
    assert TURN - 2 <= found.onset_step <= TURN + 8


def test_a_rise_that_the_training_loss_shares_is_not_overfitting() -> None:
    """Both go up: that is divergence."""
    up = 1.0 + 0.1 * np.clip(np.arange(40) - TURN, 0, None)
    loss, val = training(40) * up**3, validation(40, 0.0) * up
    assert findings(Overfitting(), loss=loss, val_loss=val) == []


def test_one_bad_evaluation_is_not_overfitting() -> None:
    """A glitch of two evaluations in a row, five times the best, is not a rise that stays."""
    val = validation(40, 0.0)
    val[25:27] *= 5.0
    assert findings(Overfitting(), loss=training(40), val_loss=val) == []


def test_one_lucky_evaluation_sets_no_best() -> None:
    """A single low value does not make the ones after it look like a rise."""
    val = validation(40, 0.0)
    val[20] *= 0.6
    assert findings(Overfitting(), loss=training(40), val_loss=val) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_validation_set_is_told_from_a_rise(seed: int) -> None:
    """15 % of flicker reaches 1.1 times the best all the time, and means nothing."""
    val = validation(200, 0.0, seed, noise=0.15)
    assert findings(Overfitting(), loss=training(200, seed), val_loss=val) == []


def test_the_flicker_of_a_loss_near_zero_is_silent() -> None:
    """From 2.3 down to 0.001: a rise to 0.002 is a hundredth of a per cent of the way."""
    t = np.arange(60)
    val = np.where(t < 20, 2.3 * 0.68**t, 0.001 * (1.0 + 0.02 * (t - 20)))
    assert findings(Overfitting(), loss=training(60) * 0.001, val_loss=val) == []


def test_losses_below_zero_are_measured_by_their_descent() -> None:
    """A negative log-likelihood that falls to -3 and climbs by a third of the way back."""
    val = validation(40, 0.05) - 4.1
    (found,) = warnings(findings(Overfitting(), loss=training(40) - 4.0, val_loss=val))
    assert abs(found.onset_step - TURN) <= 2
    assert findings(Overfitting(), loss=training(40) - 4.0, val_loss=validation(40, 0) - 4.1) == []


def test_the_episode_ends_when_validation_comes_back() -> None:
    """A hump: one episode, over when the loss is back near its best."""
    hump = 1.0 + 0.6 * np.exp(-(((np.arange(60) - 30) / 5.0) ** 2))
    said = findings(Overfitting(), loss=training(60), val_loss=validation(60, 0.0) * hump)
    assert [f.end_step is None for f in said] == [True, False]
    assert 30 <= (said[1].end_step or 0) <= 42


def test_it_never_becomes_critical() -> None:
    """Even at fifty times the best it is for the user to decide."""
    said = findings(Overfitting(), loss=training(100), val_loss=validation(100, 0.6))
    assert {f.severity for f in said} == {Severity.WARNING}
    assert len(said) == 1


def test_without_a_training_loss_nothing_is_said() -> None:
    """It takes both to tell overfitting from divergence."""
    assert findings(Overfitting(), val_loss=validation(40, 0.05)) == []


@pytest.mark.parametrize(
    "wrong", [{"ratio": 1.0}, {"patience": 2}, {"min_delta": -0.1}, {"trend_rise": 0.0}]
)
def test_wrong_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """With the value that was given."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        OverfittingConfig(**wrong)  # type: ignore[arg-type]
