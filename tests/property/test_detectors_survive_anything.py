"""Garbage in, no exception out."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossguard.detectors import CATALOGUE, Detector, Family, Observation
from tests.support.healthy_run import healthy

VALUES = st.one_of(
    st.sampled_from(
        [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, -1e38, 1.7e308, -1.7e308, 5e-324, 1.0]
    ),
    st.floats(),
    st.floats(0.5, 5.0),
)
PLAIN = sorted({name for o in healthy(64, 1) for name in o.values})
LAYERED = sorted({name for o in healthy(64, 1) for name in o.families})
METRICS = st.dictionaries(st.sampled_from(PLAIN), VALUES)


@st.composite
def families(draw: st.DrawFn) -> dict[str, Family]:
    """Per-layer values, some missing, some not finite."""
    size = draw(st.integers(0, 4))
    if size == 0:
        return {}
    values = draw(st.lists(st.floats(width=32), min_size=size, max_size=size))
    missing = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    names = [f"layer{i}" for i in range(size)]
    family = Family(names, np.array(values, np.float32), np.array(missing, np.bool_))
    return {draw(st.sampled_from([*LAYERED, "other"])): family}


@pytest.mark.parametrize("kind", list(CATALOGUE.values()), ids=list(CATALOGUE))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_values_make_a_detector_raise(kind: type[Detector], data: st.DataObject) -> None:
    """Whatever is measured, a detector neither raises, nor bounds with a NaN, nor breaks."""
    rows = data.draw(st.lists(METRICS, max_size=30))
    repeats = data.draw(st.integers(1, 12))
    extra = data.draw(families())
    detector = kind()
    step = 0
    for _ in range(repeats):
        for values in rows:
            detector.update(Observation(step, values, families=extra))
            assert not any(math.isnan(bound) for bound in detector.bounds().values())
            step += 1
    state = msgspec.msgpack.encode(detector.state())
    twin = kind()
    twin.restore(msgspec.msgpack.decode(state))
    assert msgspec.msgpack.encode(twin.state()) == state
    detector.rewind(step // 2)
    detector.update(Observation(step, {"loss": 1.0, "grad_norm": 1.0}))
