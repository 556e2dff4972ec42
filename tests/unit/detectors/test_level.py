"""Level: the yardstick of the loss and gradient rules."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors.level import Level, material_rise


def filled(values: list[float]) -> Level:
    """A level that has accepted the values."""
    level = Level(32, 256)
    for value in values:
        level.accept(value)
    return level


def test_deviations_do_not_depend_on_the_unit_of_the_loss() -> None:
    """A loss in nats and one a thousand times larger deviate by the same sigmas."""
    random = np.random.default_rng(0)
    values = np.exp(0.05 * random.standard_normal(300))
    small, large = filled(values.tolist()), filled((1000.0 * values).tolist())
    assert small.deviation(2.0) == pytest.approx(large.deviation(2000.0))
    assert small.deviation(1.0) == pytest.approx(0.0, abs=1.0)


def test_the_first_value_that_is_not_positive_ends_the_logarithm() -> None:
    """From then on deviations are in plain units, with no jump of the level."""
    assert filled([1.0, 2.0, 3.0]).log
    level = filled([1.0, 2.0, 3.0, -1.0])
    assert not level.log
    assert level.median() == pytest.approx(1.5)
    assert level.above(1.0) == pytest.approx(2.5)


def test_close_to_zero_a_rise_is_measured_by_the_descent() -> None:
    """5 % of the level matters where the run is, 2 % of the descent where it has been."""
    assert material_rise(3.0, 0.0, 0.05, 0.02) == pytest.approx(0.15)
    assert material_rise(0.001, 2.0, 0.05, 0.02) == pytest.approx(0.004)
    assert material_rise(0.1, 2.0, 0.05, 0.02) == pytest.approx(0.04)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_the_tail_bound_extrapolates_beyond_the_window(sigma: float) -> None:
    """At 1e-5 it stands above what 256 values have shown, and not absurdly far."""
    random = np.random.default_rng(1)
    level = Level(64, 256, most_sigmas=np.inf)
    for value in np.exp(sigma * random.standard_normal(2_000)).tolist():
        level.accept(value)
    assert 4.0 * sigma < level.tail_bound(1e-5) < 12.0 * sigma
