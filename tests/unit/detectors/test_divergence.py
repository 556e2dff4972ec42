"""Divergence: stays up, drifts up, or rises from the start; and since when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from lossguard.detectors import Divergence, DivergenceConfig, Finding, Observation, Severity

AT = 1_000
Array = npt.NDArray[np.float64]


def decaying(num_steps: int = 2_000, seed: int = 0, noise: float = 0.02) -> Array:
    """A healthy loss: a power law in Student-t noise."""
    random = np.random.default_rng(seed)
    trend = 2.5 + 8.0 * (1.0 + np.arange(num_steps) / 5.0) ** -0.5
    return np.asarray(trend * np.exp(noise * random.standard_t(5, num_steps)))


def feed(losses: Sequence[float] | Array, lr: Array | None = None) -> list[Finding]:
    """The findings on one loss a step."""
    detector = Divergence()
    said = []
    for step, loss in enumerate(losses):
        values = {"loss": float(loss)}
        if lr is not None:
            values["lr"] = float(lr[step])
        said.append(detector.update(Observation(step, values)))
    return [finding for finding in said if finding is not None]


def criticals(said: Sequence[Finding]) -> list[Finding]:
    """The critical ones that do not end an episode."""
    return [f for f in said if f.severity is Severity.CRITICAL and f.end_step is None]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02, 0.1])
def test_a_healthy_loss_is_silent(seed: int, noise: float) -> None:
    """The healthy twin of all below."""
    assert feed(decaying(seed=seed, noise=noise)) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_jump_that_stays_is_critical_at_the_fifth_step(seed: int) -> None:
    """Doubled for good: critical four steps on, dated to the first."""
    loss = decaying(seed=seed)
    loss[AT:] *= 2.0
    (critical,) = criticals(feed(loss))
    assert (critical.onset_step, critical.detected_step) == (AT, AT + 4)


@pytest.mark.parametrize("seed", range(4))
def test_a_fast_rise_is_dated_to_its_first_steps(seed: int) -> None:
    """5 % a step: found while it rises, dated to within five steps of where it began."""
    loss = decaying(seed=seed)
    loss[AT:] *= np.exp(np.minimum(0.05 * np.arange(len(loss) - AT), 2.0))
    (critical,) = criticals(feed(loss))
    assert AT - 2 <= critical.onset_step <= AT + 5
    assert critical.detected_step <= AT + 15


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_rise_is_found_and_dated_into_its_first_part(seed: int) -> None:
    """0.05 % a step: a warning, then critical within 400 steps, dated to the first 130."""
    loss = decaying(seed=seed)
    loss[AT:] *= np.exp(0.0005 * np.arange(len(loss) - AT))
    said = feed(loss)
    (critical,) = criticals(said)
    assert said[0].severity is Severity.WARNING
    assert AT <= critical.onset_step <= AT + 130
    assert critical.detected_step <= AT + 400


@pytest.mark.parametrize("seed", range(4))
def test_a_mild_shift_is_a_warning_that_becomes_normal(seed: int) -> None:
    """+8 %, a change of data: dated to the step, never critical, and over in the end."""
    loss = decaying(3_000, seed=seed)
    loss[AT:] *= 1.08
    said = feed(loss)
    assert criticals(said) == []
    assert abs(said[0].onset_step - AT) <= 2
    assert said[-1].end_step is not None


def test_a_short_spike_is_not_a_divergence() -> None:
    """Eight steps up and down again, recovering all the while, are LossSpike's."""
    loss = decaying()
    loss[AT : AT + 8] *= [1.18, 1.02, 1.07, 2.32, 1.59, 1.46, 1.28, 1.1]
    assert feed(loss) == []


@pytest.mark.parametrize("growth", [1.15, 1.5, 3.0])
def test_a_loss_that_rises_from_the_start_is_critical(growth: float) -> None:
    """No good step ever: found within 15 steps, dated to the first ones."""
    loss = [2.3 * growth**step for step in range(60)]
    (critical,) = criticals(feed(loss))
    assert critical.onset_step <= 6
    assert critical.detected_step <= 15


def test_a_start_from_another_task_may_rise_a_little() -> None:
    """The healthy twin: 30 % up in the warm-up, then down."""
    steps = np.arange(600)
    loss = 5.4 + 1.6 * np.minimum(steps / 60.0, 1.0) - 4.0 * (1.0 - np.exp(-steps / 200.0))
    assert criticals(feed(loss * np.exp(0.01 * np.random.default_rng(0).normal(size=600)))) == []


def test_an_episode_ends_when_the_loss_is_back() -> None:
    """Up for 40 steps, then back: the end is the last step that was up."""
    loss = decaying()
    loss[AT : AT + 40] *= 3.0
    said = feed(loss)
    assert said[-1].end_step == AT + 39
    assert said[-1].severity is Severity.CRITICAL


def test_a_lasting_divergence_becomes_normal_and_a_worse_one_is_found() -> None:
    """After 256 steps the new level is learnt; doubling again is a new episode."""
    loss = decaying(3_000)
    loss[AT:] *= 2.0
    loss[AT + 1_200 :] *= 2.0
    first, second = (f.onset_step for f in criticals(feed(loss)))
    assert (first, second) == (AT, AT + 1_200)


def test_negative_losses_diverge_too() -> None:
    """In plain units, below zero."""
    random = np.random.default_rng(1)
    loss = -8.0 + 0.2 * random.standard_normal(1_500)
    assert feed(loss) == []
    loss[AT:] += 6.0
    assert criticals(feed(loss))[0].onset_step == AT


def test_a_log_of_thirty_epochs_is_enough() -> None:
    """Up for good at point 18 of 30; the healthy twin is silent."""
    loss = 2.0 * np.exp(-np.arange(30) / 10.0) + 0.3
    loss *= np.exp(0.01 * np.random.default_rng(6).standard_normal(30))
    assert feed(loss) == []
    loss[18:] = 4.0
    assert criticals(feed(loss))[0].onset_step == 18


def test_warm_restarts_of_the_learning_rate_are_normal_life() -> None:
    """The loss climbs with the rate to where it has been: nothing critical."""
    steps = np.arange(2_400)
    lr = 0.05 * (1.0 + np.cos(np.pi * (steps % 600) / 600.0))
    loss = 0.3 + 2.0 * np.exp(-steps / 150.0) + 4.0 * lr
    loss *= np.exp(0.02 * np.random.default_rng(7).standard_normal(2_400))
    assert criticals(feed(loss, lr)) == []


def test_a_learning_rate_never_seen_before_is_no_restart() -> None:
    """A jump of the rate above all it has been excuses nothing."""
    loss = decaying()
    loss[AT:] *= 2.0
    lr = np.full(len(loss), 1e-4)
    lr[AT - 1 :] = 1e-2
    assert criticals(feed(loss, lr))[0].onset_step == AT


@pytest.mark.parametrize("wrong", [{"stay": 1}, {"deviation": 0.0}, {"drift_critical": 0.01}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        DivergenceConfig(**wrong)  # type: ignore[arg-type]
