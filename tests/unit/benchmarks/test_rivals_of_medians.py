"""The references whose thresholds were set by hand, and sdcguard's rule."""

from __future__ import annotations

import math

from benchmarks.rivals.robust import BlockDrift, RobustResidual, Sdcguard
from tests.unit.benchmarks.replaying import alarms, noisy


def test_one_hit_is_a_note_and_two_of_five_an_alarm() -> None:
    """A single outlier is noted by the first and left alone by the second."""
    losses = [*noisy(3.0, 200), 6.0, *noisy(3.0, 50, seed=1)]
    assert alarms(RobustResidual(), losses) == [200]
    assert alarms(RobustResidual(hits=2), losses) == []
    losses[203] = 6.0
    assert alarms(RobustResidual(hits=2), losses) == [203]


def test_less_than_five_percent_is_never_a_hit() -> None:
    """Even where there is no noise at all."""
    assert alarms(RobustResidual(), [3.0] * 100 + [3.14]) == []
    assert alarms(RobustResidual(), [3.0] * 100 + [3.16]) == [100]


def test_a_lasting_level_is_taken_for_granted_after_32_hits() -> None:
    """Flagged values stay out of the level, but not for ever."""
    losses = [*noisy(3.0, 200), *noisy(6.0, 200, seed=1)]
    assert alarms(RobustResidual(), losses) == list(range(200, 232))


def test_the_residual_is_not_blinded_by_nan() -> None:
    """A NaN is a hit and enters nothing."""
    losses = [*noisy(3.0, 200), math.nan, *noisy(3.0, 20, seed=1), 6.0]
    assert alarms(RobustResidual(), losses) == [200, 221]


def test_drift_sees_a_small_lasting_shift_and_no_spike() -> None:
    """Two blocks of 64 well above the best; a spike moves no median."""
    shifted = [*noisy(3.0, 640), *noisy(3.3, 192, seed=1)]
    assert alarms(BlockDrift(), shifted) == [767, 831]
    spiky = [*noisy(3.0, 640), *[30.0] * 10, *noisy(3.0, 192, seed=1)]
    assert alarms(BlockDrift(), spiky) == []


def test_sdcguard_counts_robust_deviations_and_sees_nan() -> None:
    """Above 8; of the loss or of the gradient norm; from the 21st on."""
    quiet = noisy(2.0, 100)
    assert alarms(Sdcguard(), [*quiet, 2.4, 2.0, math.nan]) == [100, 102]
    assert alarms(Sdcguard(), quiet, grad_norm=[*quiet[:99], 40.0]) == [99]
    assert alarms(Sdcguard(), [*quiet[:19], 40.0]) == []
