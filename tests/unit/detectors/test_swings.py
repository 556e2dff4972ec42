"""How far and how regularly a stretch swings."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors.swings import reversals, stretch

T = np.arange(128)


@pytest.mark.parametrize("period", [2, 3, 7, 20])
def test_a_sine_on_a_slope_is_all_regular(period: int) -> None:
    """Most of its power around its period, whatever the trend and with spikes in it."""
    loss = 5.0 - 0.01 * T + 0.5 * np.sin(2.0 * np.pi * T / period + 1.0)
    loss[[40, 90]] = 60.0
    seen = stretch(list(loss))
    assert seen is not None
    share, found = seen.regularity()
    assert share > 0.7
    assert found == pytest.approx(period, rel=0.1)
    assert seen.amplitude * seen.level == pytest.approx(0.5, rel=0.2)


def test_noise_is_not() -> None:
    """White noise has half of its power around one frequency in none of 500 stretches."""
    random = np.random.default_rng(0)
    shares = []
    for _ in range(500):
        seen = stretch(list(3.0 + random.normal(0.0, 0.3, 128)))
        assert seen is not None
        shares.append(seen.regularity()[0])
    assert max(shares) < 0.4


def test_swings_that_die_out_or_descend_are_progress() -> None:
    """And those that go on are not."""
    swing = np.sin(T * 0.8)
    dying = stretch(list(3.0 + swing * np.exp(-T / 40.0)))
    falling = stretch(list(6.0 - 0.03 * T + swing))
    steady = stretch(list(3.0 + swing))
    assert dying is not None
    assert falling is not None
    assert steady is not None
    assert (dying.falls, falling.falls, steady.falls) == (True, True, False)


def test_no_level_means_no_stretch() -> None:
    """Nothing is relative to zero."""
    assert stretch([0.0] * 32) is None


def test_reversals_count_turns_of_some_height() -> None:
    """Small ones on the way do not count."""
    assert reversals([0.0, 1.0, 0.0, 1.0, 0.0], 0.5) == 3
    assert reversals([0.0, 1.0, 0.9, 2.0, 1.9, 3.0], 0.5) == 0
    assert reversals([0.0, 0.1, 0.0, 0.1], 0.5) == 0
