"""Rules that end a run, and rules for what is not finite."""

from __future__ import annotations

import math

from benchmarks.rivals import RIVALS
from benchmarks.rivals.non_finite import ComposerNan, DeepSpeedScale, HfNanFilter, NanCheck
from benchmarks.rivals.stopping import (
    DlibSlope,
    LossNotDecreasing,
    LossWatchDog,
    probability_of_rise,
)
from benchmarks.rivals.validation import AutoTrainer, LightningEarlyStopping, Overfit
from lossguard.detectors import Observation
from tests.unit.benchmarks.replaying import alarms, falling, noisy


def test_no_rule_minds_rows_without_its_metrics() -> None:
    """A row that measured nothing is nothing to any of them."""
    for make in RIVALS.values():
        rule = make()
        assert rule.update(Observation(0, {})) is None
        assert rule.update(Observation(1, {"step_time": 0.1})) is None


def test_the_nan_check_sees_loss_and_gradient() -> None:
    """NaN and Inf, each in either."""
    assert alarms(NanCheck(), [1.0, math.nan, math.inf, 1e30]) == [1, 2]
    assert alarms(NanCheck(), [1.0] * 3, grad_norm=[1.0, math.inf, 1.0]) == [1]


def test_composer_lets_inf_pass() -> None:
    """Only NaN in the loss raises."""
    assert alarms(ComposerNan(), [1.0, math.inf, math.nan]) == [2]
    assert alarms(ComposerNan(), [1.0], grad_norm=[math.nan]) == []


def test_the_hf_filter_hides_nan() -> None:
    """Nobody is told."""
    assert alarms(HfNanFilter(), [1.0, math.nan, math.nan, math.inf]) == []


def test_deepspeed_raises_at_the_smallest_scale_only() -> None:
    """A collapse on its way down is not seen."""
    scales = [2.0**16, 2.0**8, 2.0, 1.0]
    assert alarms(DeepSpeedScale(), loss_scale=scales) == [3]


def test_early_stopping_counts_validations_without_a_new_best() -> None:
    """Three of them; said once until there is a new best; a NaN at once."""
    rule = LightningEarlyStopping()
    assert alarms(rule, val_loss=[2.0, 1.0, 1.1, 1.0, 1.2, 1.3, 0.9, 1, 1, 1]) == [4, 9]
    assert alarms(LightningEarlyStopping(), val_loss=[2.0, math.nan]) == [1]


def test_early_stopping_has_no_threshold_for_divergence_and_no_training_loss() -> None:
    """Two terrible validations pass, and so does every training loss."""
    assert alarms(LightningEarlyStopping(), val_loss=[2.0, 1e6, 1e9]) == []
    assert alarms(LightningEarlyStopping(), [1.0, math.nan, 1e9]) == []


def test_the_watch_dog_bites_at_the_third_high_loss_and_lets_nan_pass() -> None:
    """In a row; NaN is not above any threshold, and ends the row."""
    assert alarms(LossWatchDog(), [2.0, 5.0, 5.0, 5.0, 5.0]) == [3, 4]
    assert alarms(LossWatchDog(), [2.0, 5.0, 5.0, math.nan, 5.0, 5.0]) == []


def test_loss_not_decreasing_fires_at_half_of_its_checks_on_a_slow_descent() -> None:
    """The noise between two steps is larger than the progress in ten."""
    slow = [v - 1e-5 * row for row, v in enumerate(noisy(3.0, 10_000))]
    assert 400 <= len(alarms(LossNotDecreasing(), slow)) <= 600


def test_loss_not_decreasing_is_quiet_where_the_descent_is_steep() -> None:
    """0.1 % in ten steps are enough; a flat loss is not."""
    assert alarms(LossNotDecreasing(), falling(300)) == []
    assert alarms(LossNotDecreasing(), [2.0] * 31) == [10, 20, 30]


def test_overfit_compares_with_the_training_loss_since_the_last_validation() -> None:
    """A gap above 10 % at a second validation, said once while it lasts."""
    gap = Overfit()
    assert alarms(gap, [1.0] * 5, val_loss=[1.05, 1.2, 1.2, 1.3, 1.4]) == [2]
    assert alarms(Overfit(), [1.0] * 5, val_loss=[1.2, 1.0, 1.2, 1.0, 1.2]) == []


def test_dlib_sees_a_loss_that_rises_between_two_saves() -> None:
    """And not one that falls or stands."""
    rising = [2.0 + 0.001 * row + v for row, v in enumerate(noisy(1.0, 200))]
    assert alarms(DlibSlope(), rising) == [199]
    assert alarms(DlibSlope(), rising[::-1]) == []
    assert probability_of_rise([1.0] * 10) == 0.5


def test_dlib_grows_more_patient_with_each_reload() -> None:
    """A rise that is 99.95 % sure is reloaded twice; the third time takes 99.99 %."""
    creeping = [math.sin(row * 2.4) + 0.00285 * row for row in range(400)]
    assert 0.999 < probability_of_rise(creeping[:200]) < 0.9999
    assert alarms(DlibSlope(), creeping) == [199, 299]


def test_dlib_sees_a_nan_at_its_next_save() -> None:
    """As long as it is among the losses kept."""
    assert alarms(DlibSlope(), [1.0] * 50 + [math.nan] + [1.0] * 249) == [99, 199]


def test_autotrainer_counts_swings() -> None:
    """Maxima well above minima, one in five epochs; a smooth descent has none."""
    swinging = [1.0 + 0.1 * (-1) ** epoch for epoch in range(30)]
    assert alarms(AutoTrainer(), val_loss=swinging)[0] == 11
    assert alarms(AutoTrainer(), val_loss=falling(30, 2.0, 1.0)) == []
    assert alarms(AutoTrainer(), val_loss=[1.0, 999.0, 1000.0, math.nan]) == [2, 3]
