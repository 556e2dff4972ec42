"""Plateaus: nothing learnt, stuck, and flat; and runs that only look like that."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lossguard.detectors import Plateau, PlateauConfig, Severity
from tests.support.curves import Array, findings, noisy, power_law, warnings


def slow_start(num_steps: int, start: int) -> Array:
    """It stands at 10.8 until ``start``, and then learns."""
    t = np.clip(np.arange(num_steps) - start, 0, None)
    return np.asarray(3.0 + 7.8 * (1.0 + t / 40.0) ** -0.7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0005, 0.01, 0.03])
def test_a_run_that_never_learns_is_a_warning(seed: int, noise: float) -> None:
    """ln 10 for ever: found, the later the noisier, and dated to the first step."""
    loss = noisy(np.full(4_000, math.log(10.0)), noise, seed)
    (found,) = warnings(findings(Plateau(), loss=loss))
    assert found.onset_step <= 2
    assert found.detected_step <= (260 if noise < 0.02 else 2_000)
    assert "10 classes" in found.message or noise >= 0.01


@pytest.mark.parametrize("seed", range(4))
def test_a_learning_rate_far_too_small_is_found(seed: int) -> None:
    """1 % in 2,000 steps is beyond the noise, and no progress."""
    loss = noisy(np.asarray(4.56 * (1.0 - 5e-6 * np.arange(2_000.0))), 0.004, seed)
    (found,) = warnings(findings(Plateau(), loss=loss))
    assert found.detected_step <= 260


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.001, 0.02, 0.1])
def test_a_run_that_learns_slowly_is_silent(seed: int, noise: float) -> None:
    """The healthy twin: half a per cent in 100 steps, on and on."""
    loss = noisy(4.56 * np.exp(-5e-4 * np.arange(2_000)), noise, seed)
    assert findings(Plateau(), loss=loss) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_dead_network_is_found_in_a_log_of_thirty_epochs(seed: int) -> None:
    """A validation loss on each row says that rows are epochs: twenty of them are enough."""
    loss = noisy(np.full(30, 2.31), 0.003, seed)
    (found,) = warnings(findings(Plateau(), loss=loss, val_loss=loss))
    assert found.onset_step <= 2
    assert found.detected_step <= 22


@pytest.mark.parametrize("seed", range(4))
def test_so_it_is_by_the_epoch_column(seed: int) -> None:
    """A higher epoch on each row says the same."""
    loss = noisy(np.full(30, 2.31), 0.003, seed)
    assert len(warnings(findings(Plateau(), loss=loss, epoch=np.arange(30.0)))) == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("speed", [0.02, 0.3])
def test_thirty_epochs_that_learn_are_silent(seed: int, speed: float) -> None:
    """The healthy twin, fast or slow."""
    loss = noisy(0.4 + 1.9 * np.exp(-speed * np.arange(30)), 0.01, seed)
    assert warnings(findings(Plateau(), loss=loss, val_loss=loss)) == []


def test_one_number_that_is_guessing_is_found_at_once() -> None:
    """Wild first steps, then ln 2 to the last digit: dead."""
    loss = np.concatenate([[0.7, 2.4, 5.3, 1.0, 10.7, 2.0, 3.6], np.full(40, 0.6931)])
    (found,) = warnings(findings(Plateau(), loss=loss))
    assert found.onset_step in (7, 8)
    assert found.detected_step <= 25
    assert "2 classes" in found.message


def test_a_warm_up_of_the_learning_rate_is_waited_for() -> None:
    """600 steps at the initial loss while the rate climbs, then it learns: silent."""
    loss = noisy(slow_start(3_000, 600), 0.002, 0)
    lr = 1e-3 * np.minimum((np.arange(3_000) + 1) / 700.0, 1.0)
    assert findings(Plateau(), loss=loss, lr=lr) == []
    (found,) = warnings(findings(Plateau(), loss=loss))
    assert found.detected_step < 600


def test_an_episode_ends_when_learning_begins() -> None:
    """Nothing for 600 steps, then it learns: a warning and its end."""
    said = findings(Plateau(), loss=noisy(slow_start(1_500, 600), 0.002, 0))
    assert [f.end_step is None for f in said] == [True, False]
    assert 590 <= (said[1].end_step or 0) <= 640


@pytest.mark.parametrize("seed", range(4))
def test_a_loss_that_blew_up_and_stays_is_stuck(seed: int) -> None:
    """From 2.9 to 6.9 and dead flat: found within 120 steps, dated to the first."""
    loss = noisy(power_law(1_500), 0.02, seed)
    loss[900:] = noisy(np.full(600, 6.9), 0.01, seed + 9)
    (found,) = warnings(findings(Plateau(), loss=loss))
    assert found.onset_step == 900
    assert found.detected_step <= 1_020
    assert found.score > 1.0


@pytest.mark.parametrize("seed", range(4))
def test_a_loss_that_comes_back_is_not_stuck(seed: int) -> None:
    """The healthy twin: the same jump, half of it made up in each 100 steps."""
    loss = power_law(1_500)
    loss[900:] += 4.0 * 0.5 ** (np.arange(600) / 100.0)
    assert findings(Plateau(), loss=noisy(loss, 0.02, seed)) == []


@pytest.mark.parametrize("seed", range(4))
def test_other_data_a_little_harder_are_not_stuck(seed: int) -> None:
    """15 % up for good, as a change of data brings: a small part of what was learnt."""
    loss = power_law(2_000)
    loss[900:] *= 1.15
    assert warnings(findings(Plateau(), loss=noisy(loss, 0.02, seed))) == []


@pytest.mark.parametrize("seed", range(4))
def test_convergence_is_no_trouble(seed: int) -> None:
    """Down to a floor and flat for 5,000 steps: a line at most."""
    trend = 0.8 + 2.0 * np.exp(-np.arange(6_000) / 300.0)
    said = findings(Plateau(), loss=noisy(trend, 0.03, seed))
    assert [f.severity for f in said] == [Severity.INFO]
    assert said[0].onset_step >= 800


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.003, 0.02, 0.1])
def test_a_power_law_is_silent(seed: int, noise: float) -> None:
    """Progress gets slow, but does not end: 2,000 steps of it are no plateau."""
    assert findings(Plateau(), loss=noisy(power_law(2_000, 0.5), noise, seed)) == []


def test_a_rate_that_has_decayed_explains_a_flat_loss() -> None:
    """At a hundredth of the peak nothing more is to be expected, and nothing is said."""
    trend = 0.8 + 2.0 * np.exp(-np.arange(4_000) / 200.0)
    lr = np.where(np.arange(4_000) < 400, 1e-3, 1e-5)
    assert findings(Plateau(), loss=noisy(trend, 0.01, 0), lr=lr) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_loss_around_zero_is_no_plateau(seed: int) -> None:
    """The objective of a policy gradient has no size and no progress to show."""
    loss = np.random.default_rng(seed).normal(0.0, 0.02, 3_000)
    assert findings(Plateau(), loss=loss) == []


def test_the_first_losses_may_be_wild() -> None:
    """A giant first loss that comes down to guessing has learnt nothing."""
    loss = noisy(np.full(600, math.log(10.0)), 0.003, 0)
    loss[:4] = [31.0, 17.0, 6.0, 3.0]
    assert len(warnings(findings(Plateau(), loss=loss))) == 1


@pytest.mark.parametrize("wrong", [{"patience": 3}, {"min_progress": 0.7}, {"flat_epochs": 5}])
def test_wrong_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """With the value that was given."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        PlateauConfig(**wrong)  # type: ignore[arg-type]
