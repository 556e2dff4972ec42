"""Oscillation: swings without progress; and noise, cycles and data that only look like it."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors import Oscillation, OscillationConfig
from tests.support.curves import Array, findings, noisy, power_law, warnings

AT = 1_000


def swinging(period: float, amplitude: float, seed: int, at: int = AT) -> Array:
    """A healthy loss that swings in its latter half."""
    t = np.arange(2 * at)
    swing = amplitude * np.sin(2.0 * np.pi * (t - at) / period + 0.7)
    return noisy(power_law(2 * at), 0.02, seed) * np.where(t >= at, 1.0 + swing, 1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("period", [2.0, 5.0, 16.0])
def test_swings_are_a_warning(period: float, seed: int) -> None:
    """15 % up and down: found within 200 steps, dated to within 40, with period and height."""
    (found,) = warnings(findings(Oscillation(), loss=swinging(period, 0.15, seed)))
    assert abs(found.onset_step - AT) <= 40
    assert found.detected_step <= AT + 200
    assert found.evidence["period"] == pytest.approx(period, rel=0.1)
    assert found.evidence["low"] < 0.93 * 3.06 < 1.07 * 3.06 < found.evidence["high"]


@pytest.mark.parametrize("seed", range(3))
def test_slow_swings_are_found_at_the_coarse_scale(seed: int) -> None:
    """Once in 100 steps: it takes ten of them, and a past as long."""
    loss = swinging(100.0, 0.15, seed, at=3_000)
    (found,) = warnings(findings(Oscillation(), loss=loss))
    assert 2_900 <= found.onset_step <= 3_300
    assert found.detected_step <= 4_600
    assert found.evidence["period"] == pytest.approx(100.0, rel=0.15)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dof", [3.0, 30.0])
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_white_noise_is_silent(seed: int, dof: float, noise: float) -> None:
    """The healthy twin: however large, and even if it grows fourfold, it has no rhythm."""
    loss = noisy(power_law(4_000), noise, seed, dof)
    assert findings(Oscillation(), loss=loss) == []
    wilder = noisy(power_law(4_000), 0.02, seed, dof)
    wilder[2_000:] = noisy(power_law(4_000)[2_000:], 0.08, seed + 50, dof)
    assert findings(Oscillation(), loss=wilder) == []


def wild(seed: int, *, early_noise: float, descent: float, noise: float) -> Array:
    """A loss that comes down from 1 by ``descent`` in 64 steps; then swings without a rhythm."""
    random = np.random.default_rng(seed)
    level = 1.0 - descent * np.minimum(np.arange(640) / 64.0, 1.0)
    spread = np.where(np.arange(640) < 32, early_noise, noise)
    return level * (1.0 + spread * random.gamma(1.0, 1.0, 640) - spread)


@pytest.mark.parametrize("seed", range(4))
def test_swings_that_lose_all_that_was_gained_are_a_warning(seed: int) -> None:
    """A gradient that is mostly noise: no rhythm, but up and down by more than the descent."""
    found, *_ = warnings(
        findings(Oscillation(), loss=wild(seed, early_noise=0.05, descent=0.2, noise=0.8))
    )
    assert found.detected_step <= 256
    assert "ever more" in found.message


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("early_noise", "descent", "noise"),
    [(0.8, 0.2, 0.8), (0.05, 0.8, 0.8), (0.05, 0.2, 0.25)],
    ids=["batches of one from the start", "it has come far", "it is small against its level"],
)
def test_noise_without_a_rhythm_is_silent(
    seed: int, early_noise: float, descent: float, noise: float
) -> None:
    """The healthy twins: each lacks one of the three."""
    loss = wild(seed, early_noise=early_noise, descent=descent, noise=noise)
    assert findings(Oscillation(), loss=loss) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_wandering_level_is_silent(seed: int) -> None:
    """Noise with a long memory goes up and down as well, at no pace of its own."""
    random = np.random.default_rng(seed)
    drift = np.zeros(4_000)
    for i in range(2_000, 4_000):
        drift[i] = 0.97 * drift[i - 1] + random.normal(0.0, 0.05)
    assert findings(Oscillation(), loss=noisy(power_law(4_000), 0.02, seed) * np.exp(drift)) == []


@pytest.mark.parametrize("seed", range(3))
def test_data_sets_that_take_turns_are_silent(seed: int) -> None:
    """An easy and a hard one by turns from the start, 20 % apart: it has always been so."""
    t = np.arange(4_000)
    loss = noisy(power_law(4_000), 0.02, seed) * np.where(t // 8 % 2 == 0, 0.9, 1.1)
    assert findings(Oscillation(), loss=loss) == []


@pytest.mark.parametrize("seed", range(3))
def test_swings_that_come_down_are_progress(seed: int) -> None:
    """They began at 1,000, and the loss falls by a third in each 128 steps."""
    t = np.arange(1_600)
    trend = 8.0 * np.exp(-np.clip(t - AT, 0, None) / 300.0)
    swing = np.where(t >= AT, 1.0 + 0.15 * np.sin(2.0 * np.pi * t / 8.0), 1.0)
    assert findings(Oscillation(), loss=noisy(trend, 0.02, seed) * swing) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("period", [8, 20, 100])
def test_a_cyclic_learning_rate_explains_them(seed: int, period: int) -> None:
    """The same swings in step with the rate are its doing; without the rate they are not."""
    loss, t = swinging(period, 0.15, seed, at=3_000), np.arange(6_000)
    lr = 1e-3 * (1.0 + np.where(t >= 3_000, 0.8, 0.0) * np.sin(2.0 * np.pi * t / period))
    assert findings(Oscillation(), loss=loss, lr=lr) == []
    assert len(warnings(findings(Oscillation(), loss=loss))) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_small_sawtooth_of_epochs_is_silent(seed: int) -> None:
    """3 % down over each epoch and up again at its end: shuffled data, no trouble."""
    loss = noisy(power_law(4_000), 0.01, seed) * (1.015 - 0.03 * (np.arange(4_000) % 40) / 40)
    assert findings(Oscillation(), loss=loss) == []


def test_spikes_at_equal_distances_are_no_swings() -> None:
    """Every 20th loss is five times as high: that is for the spikes."""
    loss = noisy(power_law(3_000), 0.02, 0)
    loss[1_000::20] *= 5.0
    assert findings(Oscillation(), loss=loss) == []


def test_swings_close_to_zero_do_not_matter() -> None:
    """From 8 down to 0.01: 30 % of that is nothing."""
    t = np.arange(4_000)
    trend = 8.0 * np.exp(-t / 150.0) + 0.01
    loss = noisy(trend, 0.02, 0) * np.where(t > 2_500, 1.0 + 0.3 * np.sin(t), 1.0)
    assert findings(Oscillation(), loss=loss) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_swings_from_the_start_is_found(seed: int) -> None:
    """It has no calm past, and has learnt nothing: the rate was too high from the first step."""
    loss = noisy(np.full(800, 3.0), 0.05, seed) * (1.0 + 0.4 * np.sin(np.arange(800) * 0.9))
    (found,) = warnings(findings(Oscillation(), loss=loss))
    assert found.detected_step <= 250


@pytest.mark.parametrize("seed", range(3))
def test_the_episode_ends_when_the_swings_do(seed: int) -> None:
    """300 steps of them, then calm: one warning, one end."""
    loss = swinging(10.0, 0.2, seed)
    loss[AT + 300 :] = noisy(power_law(2_000), 0.02, seed + 9)[AT + 300 :]
    said = findings(Oscillation(), loss=loss)
    assert [f.end_step is None for f in said] == [True, False]
    assert AT + 250 <= (said[1].end_step or 0) <= AT + 400


@pytest.mark.parametrize("seed", range(4))
def test_thirty_epochs_that_jump_up_and_down_are_a_warning(seed: int) -> None:
    """A validation loss on each row says that rows are epochs: 40 % to and fro is no noise."""
    random = np.random.default_rng(seed)
    loss = 1.5 * np.exp(random.normal(0.0, 0.35, 40))
    (found,) = warnings(findings(Oscillation(), loss=loss, val_loss=loss))
    assert found.detected_step <= 32


@pytest.mark.parametrize("seed", range(4))
def test_thirty_epochs_that_learn_with_some_noise_are_silent(seed: int) -> None:
    """The healthy twin: 4 % of noise on a curve that falls and levels off."""
    loss = noisy(0.6 + 1.7 * np.exp(-np.arange(50) / 6.0), 0.04, seed)
    assert findings(Oscillation(), loss=loss, val_loss=loss) == []


@pytest.mark.parametrize("wrong", [{"window": 32}, {"times": 1.0}, {"regularity": 0.1}])
def test_wrong_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """With the value that was given."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        OscillationConfig(**wrong)  # type: ignore[arg-type]
