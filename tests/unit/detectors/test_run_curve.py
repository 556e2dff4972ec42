"""A run of any length in a bounded number of blocks."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from lossguard.detectors.run_curve import RunCurve


def curve_of(values: list[float], limit: int = 16) -> RunCurve:
    """The curve of the values, at steps 10, 20, 30 and so on."""
    curve = RunCurve(limit)
    for i, value in enumerate(values):
        curve.push(10 * (i + 1), value)
    return curve


def test_a_short_run_is_kept_value_by_value() -> None:
    """One block each; the last two wait for their neighbours."""
    curve = curve_of([5.0, 4.0, 3.0, 2.0, 1.0])
    assert (curve.size, curve.medians, curve.first_step) == (1, [4.0, 3.0, 2.0], 10)


@pytest.mark.parametrize("count", [100, 1_000, 50_000])
def test_a_long_run_takes_between_half_and_all_of_the_blocks(count: int) -> None:
    """Their levels are those of the run at that place, and they hold equally many values."""
    curve = curve_of([float(i) for i in range(count)])
    assert 8 <= len(curve.medians) < 16
    middles = (np.arange(len(curve.medians)) + 0.5) * curve.size
    assert curve.medians == pytest.approx(list(middles + 0.5), abs=1.0)
    assert np.all(np.diff(curve.steps) == 10 * curve.size)


@pytest.mark.parametrize("at", [3, 100, 999])
def test_one_giant_leaves_no_trace(at: int) -> None:
    """Not even in a block of one."""
    values = [1.0] * 1_000
    values[at] = 1e300
    assert set(curve_of(values).medians) == {1.0}
    assert set(curve_of(values[: at + 3]).medians) == {1.0}


def test_it_goes_on_where_its_state_was_taken() -> None:
    """Through MessagePack, in the middle of a block."""
    values = [float(x) for x in np.random.default_rng(0).normal(size=777)]
    curve, twin = curve_of(values), RunCurve(16)
    half = curve_of(values[:400]).state()
    twin.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(half)))
    for i in range(400, 777):
        twin.push(10 * (i + 1), values[i])
    assert twin.state() == curve.state()
