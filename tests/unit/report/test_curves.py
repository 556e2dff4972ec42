"""Downsampling: a few thousand points that stand for a million."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossguard.agent.report.curves import Curve, CurveBuilder


def built(values: np.ndarray, stretches: int = 100, pieces: int = 7) -> Curve:
    """A curve of values at steps 1, 2, 3 ..., taken in by so many pieces."""
    steps = np.arange(1, len(values) + 1)
    builder = CurveBuilder("loss", 1, len(values), stretches)
    for some in np.array_split(np.arange(len(values)), pieces):
        builder.add(steps[some], values[some])
    return builder.curve()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("at", [0, 1, 4999, 77_776, 99_999])
def test_a_spike_of_one_step_is_kept_with_its_step_and_value(at: int, sign: float) -> None:
    """Up or down, at the edges or within."""
    values = np.random.default_rng(0).normal(size=100_000)
    values[at] = sign * 1e6
    curve = built(values)
    assert len(curve.steps) <= 201
    assert (curve.highest if sign > 0 else curve.lowest) == (at + 1, sign * 1e6)


def test_every_point_was_measured_just_so() -> None:
    """Nothing is averaged in what is drawn as the curve."""
    values = np.random.default_rng(1).normal(size=10_000)
    curve = built(values)
    assert (values[curve.steps - 1] == curve.values).all()
    assert (np.diff(curve.steps) > 0).all()
    assert curve.last == (10_000, values[-1])


def test_a_short_run_keeps_every_step() -> None:
    """There is nothing to leave out."""
    values = np.arange(50.0)
    curve = built(values)
    assert curve.is_whole
    assert curve.values.tolist() == values.tolist()


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=300),
    pieces=st.integers(1, 9),
    stretches=st.integers(1, 50),
)
def test_extremes_and_counts_hold_for_any_values_in_any_pieces(
    values: list[float], pieces: int, stretches: int
) -> None:
    """NaN and Inf are counted, and never among the points."""
    array = np.array(values)
    finite = array[np.isfinite(array)]
    curve = built(array, stretches, pieces)
    assert curve.count == len(values)
    assert curve.num_nonfinite == len(values) - len(finite)
    assert np.isfinite(curve.values).all()
    if len(finite):
        assert curve.lowest is not None
        assert curve.highest is not None
        assert curve.lowest[1] == finite.min()
        assert curve.highest[1] == finite.max()


def test_the_smoothed_line_begins_anew_at_a_rollback_and_ignores_a_spike() -> None:
    """Neither the level before the cut nor one outlier lingers."""
    values = np.full(1000, 2.0)
    values[500:] = 8.0
    values[200] = 1e6
    curve = built(values, stretches=1000)
    assert curve.smoothed()[220] == pytest.approx(2.0)
    assert curve.smoothed((505,))[506] == pytest.approx(8.0)
    assert curve.smoothed()[506] < 6.0
