"""RecentLoss: whether a loss stands out from those before it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lossguard.detectors.recent_loss import RecentLoss


def recent(*losses: float) -> RecentLoss:
    """One that has seen these losses."""
    recent = RecentLoss()
    for loss in losses:
        recent.push(loss)
    return recent


def noisy(level: float = 2.0, sigma: float = 0.05) -> RecentLoss:
    """One that has seen 64 losses about a level."""
    noise = np.random.default_rng(0).standard_normal(64)
    return recent(*(level * (1.0 + sigma * x) for x in noise.tolist()))


@pytest.mark.parametrize(("loss", "stands_out"), [(2.1, False), (2.4, False), (3.0, True)])
def test_a_rise_must_be_material_and_beyond_the_noise(loss: float, stands_out: bool) -> None:
    """A quarter of the level at least, and six sigma."""
    assert noisy().stands_out(loss) is stands_out


def test_a_noisy_loss_stands_out_later() -> None:
    """Six sigma of 20 % are more than a quarter."""
    assert not noisy(sigma=0.2).stands_out(3.0)
    assert noisy(sigma=0.2).stands_out(6.0)


def test_a_tail_of_its_own_is_no_surprise() -> None:
    """Every seventh loss is three times the others."""
    losses = [3.0 if i % 7 == 0 else 1.0 for i in range(64)]
    assert not recent(*losses).stands_out(3.5)
    assert recent(*losses).stands_out(8.0)


def test_two_losses_are_enough_for_a_large_rise() -> None:
    """With few the rise must be larger, by 1 + 2 / n."""
    assert recent(2.66, 2.67).stands_out(4.4)
    assert not recent(2.66, 2.67).stands_out(3.5)
    assert not recent(2.66).stands_out(1e9)


def test_what_is_not_finite_stands_out_and_is_not_learnt() -> None:
    """NaN and Inf never enter."""
    seen = recent(1.0, 1.1, math.nan, math.inf)
    assert seen.values() == [1.0, 1.1]
    assert seen.stands_out(math.nan)
    assert seen.stands_out(math.inf)


def test_losses_that_stand_out_are_counted_and_left_out() -> None:
    """In a row, until one does not."""
    seen = noisy()
    rows = []
    for loss in (5.0, None, 6.0, 7.0, 2.0):
        seen.follow(loss, asked=True)
        rows.append(seen.row)
    assert rows == [1, 1, 2, 3, 0]
    assert seen.values()[-1] == 2.0
    assert 7.0 not in seen.values()
