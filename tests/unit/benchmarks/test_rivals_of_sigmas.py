"""Rules that count standard deviations, with their defects."""

from __future__ import annotations

import math

import pytest

from benchmarks.rivals.gradient import AxlearnSkip, Rlwatch, StabilityGuard
from benchmarks.rivals.sigma import LlmcOutlier, OlmoSkipStep, ZClip
from tests.unit.benchmarks.replaying import alarms, noisy


def test_olmo_flags_what_is_six_sigma_away_up_or_down() -> None:
    """It looks at the size of the deviation, so a drop is skipped as well."""
    quiet = noisy(2.0, 100)
    assert alarms(OlmoSkipStep(), [*quiet, 2.5]) == [100]
    assert alarms(OlmoSkipStep(), [*quiet, 1.5]) == [100]
    assert alarms(OlmoSkipStep(), [*quiet, 2.05]) == []


def test_olmo_needs_half_a_window() -> None:
    """64 losses, the new one among them."""
    assert alarms(OlmoSkipStep(), [*noisy(2.0, 62), 9.0]) == []
    assert alarms(OlmoSkipStep(), [*noisy(2.0, 63), 9.0]) == [63]


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_olmo_skips_128_healthy_steps_after_one_value_that_is_not_finite(poison: float) -> None:
    """Its window then has no standard deviation, and nothing is within six of those."""
    norms = [*noisy(1.0, 200), poison, *noisy(1.0, 200, seed=1)]
    assert alarms(OlmoSkipStep(), grad_norm=norms) == list(range(200, 200 + 129))


def test_olmo_is_dulled_by_its_own_spike() -> None:
    """The spike enters the window: what was flagged before it passes after it."""
    quiet = noisy(2.0, 150)
    assert alarms(OlmoSkipStep(), [*quiet, 4.0]) == [150]
    assert alarms(OlmoSkipStep(), [*quiet, 20.0, *quiet[:20], 4.0]) == [150]


def test_llmc_says_nothing_before_its_window_is_full() -> None:
    """128 values first."""
    assert alarms(LlmcOutlier(), [*noisy(2.0, 127), 9.0]) == []
    assert alarms(LlmcOutlier(), [*noisy(2.0, 128), 9.0]) == [128]


def test_llmc_scores_are_bounded_by_the_window() -> None:
    """The new value is in the window: z is at most sqrt(127), whatever it is."""
    losses = [*noisy(2.0, 128), 1e6]
    assert alarms(LlmcOutlier(threshold=11.2), losses) == [128]
    assert alarms(LlmcOutlier(threshold=11.3), losses) == []


def test_llmc_is_blind_for_good_after_one_nan() -> None:
    """The running sums never recover."""
    losses = [*noisy(2.0, 200), math.nan, *noisy(2.0, 1000), 9.0]
    assert alarms(LlmcOutlier(), losses)[-1:] != [1200]
    losses[200] = 2.0
    assert alarms(LlmcOutlier(), losses)[-1] == 1201


def test_zclip_flags_a_spike_and_takes_it_in_clipped() -> None:
    """The mean hardly moves with the spike."""
    rule = ZClip()
    assert alarms(rule, grad_norm=[*noisy(1.0, 60, 0.05), 100.0])[-1] == 60
    assert rule.mean < 1.1


def test_zclip_goes_blind_after_one_nan() -> None:
    """Mean and variance are NaN from there on, and clipping is silently off."""
    rule = ZClip()
    norms = [*noisy(1.0, 60, 0.05), math.nan, *noisy(1.0, 60, 0.05), 1e6]
    assert max(alarms(rule, grad_norm=norms), default=0) < 60
    assert math.isnan(rule.mean)


def test_zclip_is_given_the_loss_only_until_there_is_a_norm() -> None:
    """Logs without gradient norms are not lost on it; with one, the loss is left alone."""
    assert alarms(ZClip(), [*noisy(2.0, 60, 0.02), 50.0])[-1] == 60
    rule = ZClip()
    losses = [*noisy(2.0, 60, 0.02), 50.0]
    assert 60 not in alarms(rule, losses, grad_norm=noisy(1.0, 61, 0.0))


def test_axlearn_skips_twenty_times_the_mean_and_does_not_learn_from_it() -> None:
    """What is skipped leaves the mean where it was."""
    rule = AxlearnSkip()
    assert alarms(rule, grad_norm=[*noisy(1.0, 100), 19.0]) == []
    rule = AxlearnSkip()
    assert alarms(rule, grad_norm=[*noisy(1.0, 100), 21.0, 21.0, math.nan, 1.0]) == [100, 101, 102]
    assert rule.mean == pytest.approx(1.0, abs=0.01)


def test_axlearn_skips_a_run_for_ever_whose_norms_begin_above_twenty() -> None:
    """Its mean starts at 1, and skipped norms never move it."""
    assert alarms(AxlearnSkip(), grad_norm=[25.0] * 50) == list(range(50))


def test_stabilityguard_flags_ten_times_its_slow_mean() -> None:
    """The norm enters the mean first, so it takes 11.01 times; ten steps are free."""
    assert alarms(StabilityGuard(), grad_norm=[1.0] * 50 + [10.9]) == []
    assert alarms(StabilityGuard(), grad_norm=[1.0] * 50 + [11.2]) == [50]
    assert alarms(StabilityGuard(), grad_norm=[1.0] * 9 + [20.0]) == []
    assert alarms(StabilityGuard(), grad_norm=[1.0] * 5 + [math.nan]) == [5]


def test_rlwatch_flags_three_sigma_from_its_first_hundred() -> None:
    """And a loss that is not finite."""
    assert alarms(Rlwatch(), grad_norm=[*noisy(1.0, 150), 1.5])[-1] == 150
    assert alarms(Rlwatch(), [1.0, math.nan, math.inf]) == [1, 2]


def test_rlwatch_is_blinded_by_an_outlier_among_the_first_hundred() -> None:
    """The frozen deviation has swallowed it."""
    norms = [*noisy(1.0, 150), 1.5]
    norms[18] = 37.0
    assert 150 not in alarms(Rlwatch(), grad_norm=norms)
