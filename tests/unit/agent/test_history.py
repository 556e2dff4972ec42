"""A metric's history: what must not get lost, in constant memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from lossguard.agent.feed import Series
from lossguard.agent.history import MetricHistory

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def floats(buffer: bytes) -> npt.NDArray[np.float32]:
    return np.frombuffer(buffer, dtype="<f4")


def steps_of(series: Series) -> npt.NDArray[np.int64]:
    return np.frombuffer(series.steps, dtype="<i8")


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(FINITE, st.just(math.nan), st.just(math.inf)), max_size=300),
    stride=st.integers(1, 1000),
    capacity=st.sampled_from([2, 8, 64]),
)
def test_the_extremes_of_the_buckets_are_the_extremes_of_the_run(
    values: list[float], stride: int, capacity: int
) -> None:
    """However often buckets are merged, the lowest, the highest, the newest value and whether
    there was one that is not finite stay true."""
    history = MetricHistory(capacity)
    for i, value in enumerate(values):
        history.add(i * stride, value)
    series = history.series("m")
    low, high, last = (floats(b) for b in (series.low, series.high, series.last))
    finite = np.array([v for v in values if math.isfinite(v)], dtype=np.float32)
    assert len(low) == len(high) == len(last) == len(series.nonfinite) <= capacity
    assert any(series.nonfinite) == (len(finite) < len(values))
    if finite.size:
        assert np.nanmin(low) == finite.min()
        assert np.nanmax(high) == finite.max()
        assert last[~np.isnan(last)][-1] == finite[-1]
    known = np.isnan(low)
    assert (known == np.isnan(high)).all()
    assert (known == np.isnan(last)).all()
    assert (np.diff(steps_of(series)) > 0).all()


def test_a_spike_of_one_step_survives_a_million_steps() -> None:
    """One value among 10^6 is still there, in the bucket that covers its step."""
    history = MetricHistory(256)
    for step in range(1_000_000):
        history.add(step, 99.0 if step == 123_456 else 1.0)
    series = history.series("m")
    peak = int(np.argmax(floats(series.high)))
    steps = steps_of(series)
    assert floats(series.high)[peak] == 99.0
    assert steps[peak] <= 123_456 < steps[peak + 1]
    assert len(steps) <= 256
    assert floats(series.low).min() == 1.0


def test_a_bucket_of_nan_alone_is_marked_and_empty() -> None:
    """A NaN is no value, and it is not nothing."""
    history = MetricHistory()
    for step, value in enumerate([1.0, math.nan, -math.inf, 2.0]):
        history.add(step, value)
    series = history.series("m")
    assert list(series.nonfinite) == [0, 1, 1, 0]
    assert np.isnan(floats(series.last)).tolist() == [False, True, True, False]


def test_steps_out_of_order_count_into_the_newest_bucket() -> None:
    """A late value moves no bucket back and its extreme is kept."""
    history = MetricHistory()
    for step in (1, 2, 3):
        history.add(step, 1.0)
    history.add(1, 50.0)
    series = history.series("m")
    assert steps_of(series).tolist() == [1, 2, 3]
    assert floats(series.high).tolist() == [1.0, 1.0, 50.0]


def test_steps_far_apart_and_below_zero_are_charted() -> None:
    """A metric every million steps, beginning before 0, fills buckets like any other."""
    history = MetricHistory(8)
    for i in range(-1, 100):
        history.add(i * 1_000_000, float(i))
    series = history.series("m")
    assert floats(series.low).min() == -1.0
    assert floats(series.high).max() == 99.0


@settings(max_examples=30, deadline=None)
@given(values=st.lists(FINITE, min_size=1, max_size=100), more=st.lists(FINITE, max_size=100))
def test_a_restored_history_goes_on_like_the_first(values: list[float], more: list[float]) -> None:
    """State out, state in: no difference then or later."""
    first, second = MetricHistory(16), MetricHistory(16)
    for step, value in enumerate(values):
        first.add(step, value)
    second.restore(first.state())
    for step, value in enumerate(more, start=len(values)):
        first.add(step, value)
        second.add(step, value)
    assert first.state() == second.state()
