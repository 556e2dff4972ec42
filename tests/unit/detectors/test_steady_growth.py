"""steady_growth: lines grow steadily, and little else does."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors.steady_growth import steady_growth

T = np.arange(20.0)


def test_a_line_grows_by_what_it_grows() -> None:
    """Within the sequence by its length, ahead by as many lengths as are asked for."""
    growth = steady_growth((5.0 + 2.0 * T).tolist())
    assert growth is not None
    assert growth.within == pytest.approx(40.0)
    assert growth.ahead(3.0) == pytest.approx(120.0)


def test_a_saturating_growth_is_foreseen_to_end() -> None:
    """10 (1 - exp(-t / 10)) has 10 exp(-2) ahead of it, and never twice that."""
    growth = steady_growth((10.0 * (1.0 - np.exp(-T / 10.0))).tolist())
    assert growth is not None
    assert 0.5 * 10.0 * np.exp(-2.0) < growth.ahead(50.0) < 2.0 * 10.0 * np.exp(-2.0)


@pytest.mark.parametrize("seed", range(5))
def test_noise_on_a_line_does_not_hide_it(seed: int) -> None:
    """A tenth of the growth in all."""
    noise = np.random.default_rng(seed).standard_normal(20)
    growth = steady_growth((T + 0.5 * noise).tolist())
    assert growth is not None
    assert growth.within == pytest.approx(20.0, rel=0.2)


def test_what_does_not_grow_steadily_is_none() -> None:
    """Falls, steps, teeth, plateaus and a single outlier."""
    for values in (-T, T > 10, T % 7, np.minimum(T, 8.0), 100.0 * (T == 19), 0.0 * T):
        assert steady_growth(np.asarray(values, np.float64).tolist()) is None


def test_noise_without_a_trend_is_none() -> None:
    """Never in 2,000 tries."""
    random = np.random.default_rng(0)
    tries = (steady_growth(random.standard_normal(20).tolist()) for _ in range(2_000))
    assert not any(tries)
