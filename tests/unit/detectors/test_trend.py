"""Rank statistics of short series."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lossguard.detectors.trend import flicker, mann_kendall, theil_sen


@pytest.mark.parametrize("seed", range(5))
def test_theil_sen_is_the_median_of_the_slopes(seed: int) -> None:
    """The same as scipy's."""
    x = np.random.default_rng(seed).normal(size=20).cumsum()
    assert theil_sen(list(x)) == pytest.approx(float(stats.theilslopes(x).slope))


def test_mann_kendall_counts_the_pairs_that_rise() -> None:
    """Ten that rise: S = 45, so (45 - 1) / sqrt(125) sigmas; falling, the same below zero."""
    rising = [float(i) ** 2 for i in range(10)]
    assert mann_kendall(rising) == pytest.approx(44.0 / 125.0**0.5)
    assert mann_kendall(rising[::-1]) == pytest.approx(-44.0 / 125.0**0.5)
    assert mann_kendall([1.0] * 10) == 0.0


def test_mann_kendall_of_noise_is_a_standard_normal() -> None:
    """Its spread over many series is one."""
    random = np.random.default_rng(1)
    scores = [mann_kendall(list(random.normal(size=30))) for _ in range(800)]
    assert float(np.mean(scores)) == pytest.approx(0.0, abs=0.1)
    assert float(np.std(scores)) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("slope", [0.0, 5.0])
def test_flicker_is_the_noise_whatever_the_slope(slope: float) -> None:
    """Sigma of the noise to within a tenth, on a level and on a steep line."""
    noise = np.random.default_rng(2).normal(0.0, 0.3, 3_000)
    values = [float(x) for x in slope * np.arange(3_000) + noise]
    assert flicker(values) == pytest.approx(0.3, rel=0.1)


def test_series_too_short_to_tell_say_nothing() -> None:
    """Zero, and no exception."""
    assert (mann_kendall([1.0, 2.0]), theil_sen([1.0]), flicker([1.0, 2.0])) == (0.0, 0.0, 0.0)
