"""From a buffer to an observation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lossguard.agent.placement import Placement
from lossguard.detectors import Observation
from lossguard.probes import wire

NAMES = ["loss", "grad_norm", "grad_norm/a", "grad_norm/b", "act_rms/x", "lr", "act_rms/y"]


def place(values: list[float], missing: tuple[int, ...] = ()) -> Observation:
    """The observation of one buffer."""
    buffer = np.array(values, dtype="<f4")
    for index in missing:
        buffer.view("<u4")[index] = wire.MISSING_BITS
    header = wire.Step(run="r", rank=0, step=7, applied=6, layout=3, sequence=1, time_s=0.5)
    layout = wire.Layout(run="r", rank=0, layout=3, names=NAMES)
    return Placement(layout).place(header, buffer.tobytes())


def test_values_get_their_names_and_layers_their_family() -> None:
    """What has a slash belongs to a family, in order, side by side in the buffer or not."""
    seen = place([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert seen.values == {"loss": 1.0, "grad_norm": 2.0, "lr": 6.0}
    assert (seen.step, seen.applied, seen.time_s) == (7, 6, 0.5)
    assert list(seen.families["grad_norm"].names) == ["a", "b"]
    assert seen.families["grad_norm"].values.tolist() == [3.0, 4.0]
    assert list(seen.families["act_rms"].names) == ["x", "y"]
    assert seen.families["act_rms"].values.tolist() == [5.0, 7.0]


def test_missing_is_absent_and_nan_is_a_value() -> None:
    """Only the one bit pattern means "not measured"; a measured NaN stays."""
    seen = place([1.0, math.nan, math.nan, 4.0, 5.0, 6.0, 7.0], (0, 3, 6))
    assert set(seen.values) == {"grad_norm", "lr"}
    assert math.isnan(seen.values["grad_norm"])
    assert seen.families["grad_norm"].missing.tolist() == [False, True]
    assert math.isnan(seen.families["grad_norm"].values[0])
    assert seen.families["act_rms"].missing.tolist() == [False, True]


def test_a_family_of_which_nothing_was_measured_is_absent() -> None:
    """As a plain metric is: no detector takes it for a measurement."""
    seen = place([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], (2, 3, 6))
    assert set(seen.families) == {"act_rms"}


@pytest.mark.parametrize("count", [0, 1, 6, 8])
def test_a_buffer_of_another_length_is_refused(count: int) -> None:
    """Values are never given to the wrong names."""
    with pytest.raises(ValueError, match="for 7 values"):
        place([1.0] * count)


def test_a_layout_without_names_takes_an_empty_buffer() -> None:
    """A loop may measure nothing at all."""
    header = wire.Step(run="r", rank=0, step=7, applied=6, layout=0, sequence=1, time_s=0.5)
    assert not Placement(wire.Layout(run="r", rank=0, layout=0, names=[])).place(header, b"").values
