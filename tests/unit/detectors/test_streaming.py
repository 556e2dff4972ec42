"""The sorted window against a plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossguard.detectors.change_point import onset_index
from lossguard.detectors.streaming import SortedWindow, median, noise

FINITE = st.floats(-1e6, 1e6)


@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(1, 20))
def test_the_window_equals_sorting_its_values_anew(values: list[float], size: int) -> None:
    """Median, quantiles and order of arrival are those of the last ``size`` values."""
    window = SortedWindow(size)
    for value in values:
        window.push(value)
    last = values[-size:]
    assert window.values() == last
    assert window.median() == pytest.approx(float(np.median(last)))
    assert window.quantile(1.0) == max(last)
    assert window.quantile(0.0) == min(last)
    assert window.top(3) == sorted(last)[-3:]
    assert len(window) == len(last)


@given(st.lists(FINITE, min_size=1, max_size=30))
def test_the_median_of_a_list_is_numpys(values: list[float]) -> None:
    """Odd and even lengths alike."""
    assert median(values) == pytest.approx(float(np.median(values)))


def test_noise_sees_neither_the_trend_nor_an_outlier() -> None:
    """Sigma 0.1 on a steep line with a giant in it is still 0.1."""
    random = np.random.default_rng(0)
    values = 0.01 * np.arange(2_000) + 0.1 * random.standard_normal(2_000)
    values[1_000] = 1e6
    assert noise(values.tolist()) == pytest.approx(0.1, rel=0.1)
    assert noise([1.0]) == 0.0


@pytest.mark.parametrize("seed", range(10))
def test_a_step_in_noise_is_dated_to_the_step(seed: int) -> None:
    """Five sigmas up, an outlier long before: at most two late and six early."""
    values = np.random.default_rng(seed).standard_normal(300)
    values[50] = 1e3
    values[250:] += 5.0
    assert 244 <= onset_index(values.tolist(), 0.0, 1.0, 5.0) <= 252
