"""Forecasts of loss curves."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors.power_law import Forecast, forecast
from tests.support.curves import Array

T: Array = np.asarray((np.arange(4, 40) + 0.5) * 100.0, dtype=np.float64)
LATER: Array = np.array([6_000.0])


@pytest.mark.parametrize("exponent", [0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("floor", [0.0, 2.0])
def test_a_power_law_is_foretold(exponent: float, floor: float) -> None:
    """Half as far again as it was fitted: within 2 % of the progress it has made, without noise."""
    y = floor + 8.0 * (T + 50.0) ** -exponent
    there = floor + 8.0 * (LATER + 50.0) ** -exponent
    found = forecast(T, y, 6_000.0)
    assert float(found.best.at(LATER)[0]) == pytest.approx(
        float(there[0]), abs=0.02 * (y[0] - y[-1])
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_lies_below_the_slowest_of_them(seed: int) -> None:
    """With noise the floor is unsure, and the upper curve leaves room for it."""
    noise = np.random.default_rng(seed).normal(0.0, 0.01, len(T))
    found = forecast(T, 2.0 + 8.0 * T**-0.4 + noise, 6_000.0)
    assert float(found.upper(LATER)[0]) > 2.0 + 8.0 * 6_000.0**-0.4 - 0.01


def test_outliers_do_not_sway_it() -> None:
    """Three of forty blocks are off by a lot."""
    y = 2.0 + 8.0 * T**-0.4
    clean = forecast(T, y, 6_000.0)
    y[[5, 17, 30]] += [3.0, -1.0, 5.0]
    dirty = forecast(T, y, 6_000.0)
    assert float(dirty.best.at(LATER)[0]) == pytest.approx(float(clean.best.at(LATER)[0]), abs=0.01)


def test_it_never_foretells_a_rise_or_a_negative_loss() -> None:
    """A curve that rises is fitted by a constant; one that falls straight, by one above zero."""
    rising = forecast(T, 1.0 + T / 4_000.0, 6_000.0)
    assert float(rising.best.at(LATER)[0]) <= 2.0
    falling = forecast(T, 1.0 - T / 4_100.0, 6_000.0)
    assert float(falling.best.at(LATER)[0]) >= 0.0


def test_a_forecast_survives_a_restart() -> None:
    """As plain numbers."""
    found = forecast(T, 2.0 + 8.0 * T**-0.4, 6_000.0)
    assert Forecast.from_state(found.state()) == found
