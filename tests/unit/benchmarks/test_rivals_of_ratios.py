"""Rules that compare the loss with a multiple, as their sources describe them."""

from __future__ import annotations

import math

from benchmarks.rivals.ratio import (
    Guarftrain,
    KillLossSpike,
    LightningSpike,
    MegatronTenfold,
    MetaseqEwm,
    ThreeTimesMean,
)
from tests.unit.benchmarks.replaying import alarms, falling, noisy


def test_lightning_sees_three_times_the_mean_and_nothing_less() -> None:
    """A difference of twice the mean is three times the mean: 2.9 times passes."""
    assert alarms(LightningSpike(), [1.0] * 20 + [3.0]) == [20]
    assert alarms(LightningSpike(), [1.0] * 20 + [2.9]) == []


def test_lightning_lets_pass_what_is_below_the_loss_before() -> None:
    """A loss that improves on the last one is never a spike, however high it stands."""
    climbing = [1.0] * 10 + [2.5, 7.0]
    assert alarms(LightningSpike(), climbing) == [11]
    assert alarms(LightningSpike(), [1.0] * 10 + [2.9, 2.8, 2.7]) == []


def test_lightning_keeps_spikes_out_of_the_mean_and_takes_nan_for_one() -> None:
    """Spike after spike is found, and the loss after a NaN is judged as before."""
    assert alarms(LightningSpike(), [1.0] * 10 + [5.0, 5.0, math.nan, 1.0, 5.0]) == [10, 11, 12, 14]


def test_lightning_judges_from_the_second_batch_on() -> None:
    """Warm-up is one batch: a first NaN becomes the mean."""
    assert alarms(LightningSpike(), [math.nan, 1.0]) == []
    assert alarms(LightningSpike(), [1.0, math.nan]) == [1]


def test_kill_loss_spike_waits_for_the_fifth_outlier_in_a_row() -> None:
    """More than 4 losses of twice the mean; four and a pause are forgiven."""
    quiet = [1.0] * 100
    assert alarms(KillLossSpike(), [*quiet, *[3.0] * 5]) == [104]
    assert alarms(KillLossSpike(), [*quiet, *[3.0] * 4, 1.0, *[3.0] * 4]) == []


def test_kill_loss_spike_is_blind_before_its_window_is_full() -> None:
    """Fewer than 100 losses: nothing is said about anything."""
    assert alarms(KillLossSpike(), [1.0] * 90 + [9.0] * 9) == []


def test_kill_loss_spike_cries_at_losses_above_its_cap() -> None:
    """Half a window above 10 after two windows: high losses, spiking or not."""
    assert alarms(KillLossSpike(), [11.0] * 260) == list(range(200, 260))
    assert alarms(KillLossSpike(), [9.0] * 260) == []


def test_kill_loss_spike_is_blind_for_a_window_after_a_nan() -> None:
    """The mean of a window with NaN is NaN, and no loss is twice that."""
    losses = [1.0] * 100 + [math.nan] + [1.0] * 20 + [9.0] * 10
    assert alarms(KillLossSpike(), losses) == []
    losses[100] = 1.0
    assert alarms(KillLossSpike(), losses) != []


def test_megatron_compares_with_the_largest_of_the_first_hundred() -> None:
    """Ten times the first losses, which are the highest of a run: a loss of 3 may reach 80."""
    losses = falling(100) + [3.0] * 100
    assert alarms(MegatronTenfold(), [*losses, 79.0]) == []
    assert alarms(MegatronTenfold(), [*losses, 80.0]) == [200]
    assert alarms(MegatronTenfold(), [*losses, math.inf, math.nan]) == [200, 201]


def test_megatron_watches_loss_and_gradient_apart() -> None:
    """Each has its own largest value."""
    norms = [1.0] * 100 + [10.0]
    assert alarms(MegatronTenfold(), [50.0] * 101, grad_norm=norms) == [100]


def test_three_times_the_mean_is_three_times_the_mean() -> None:
    """Above, not at; NaN is neither seen nor taken in."""
    assert alarms(ThreeTimesMean(), [1.0] * 50 + [3.0]) == []
    assert alarms(ThreeTimesMean(), [1.0] * 50 + [math.nan, 3.1]) == [51]


def test_metaseq_flags_the_ratio_and_keeps_spikes_out() -> None:
    """1.3 times the moving average; spikes leave it where it was, so a new level stays flagged."""
    rule = MetaseqEwm()
    assert alarms(rule, [1.0] * 20 + [1.29, 1.0, 1.5]) == [22]
    assert rule.ewm is not None
    before = rule.ewm
    assert alarms(rule, [1.5] * 50) == list(range(50))
    assert rule.ewm == before


def test_metaseq_with_its_default_ratio_never_moves_its_average() -> None:
    """Every ratio is above -1: everything is flagged and nothing learned."""
    rule = MetaseqEwm(ratio=-1.0)
    assert alarms(rule, [8.0, 4.0, 2.0]) == [0, 1, 2]
    assert rule.ewm == 8.0


def test_guarftrain_takes_any_flat_stretch_for_stagnation() -> None:
    """A healthy plateau of 50 losses is an alarm a step; a clear descent is not."""
    flat = alarms(Guarftrain(), noisy(2.0, 300))
    assert len(flat) > 80
    assert alarms(Guarftrain(), falling(300)) == []


def test_guarftrain_flags_half_as_much_again_and_nan() -> None:
    """1.5 times the mean of the last 50; NaN stays out of it."""
    losses = [*falling(60), math.nan, 3.0, 12.0]
    assert alarms(Guarftrain(), losses) == [60, 62]
