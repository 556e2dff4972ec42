"""The layers of a whole run in constant memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from lossguard.agent.layer_history import LayerHistory, LayerMap
from lossguard.detectors import Family, Observation


def family(values: Sequence[float], missing: Sequence[bool] | None = None) -> Family:
    """Layers called 0, 1, 2 ..."""
    names = tuple(map(str, range(len(values))))
    gone = np.zeros(len(values), dtype=np.bool_) if missing is None else np.array(missing)
    return Family(names, np.array(values, dtype=np.float32), gone)


@pytest.mark.parametrize("at", [1, 500, 9_999])
def test_a_spike_of_one_step_in_one_layer_survives_any_length(at: int) -> None:
    """At the beginning, within, and at the end; memory stays what it was."""
    known = LayerMap(["0", "1"], columns=32)
    for step in range(1, 10_000):
        known.add(step, family([1.0, 99.0 if step == at else 2.0]))
    assert len(known.steps) <= 32
    row = known.values[:, 1]
    column = int(np.argmax(row))
    assert row[column] == 99.0
    assert known.steps[column] <= at < known.steps[column] + known.width
    assert known.values[:, 0].max() == 1.0


def test_neighbours_share_a_row_where_there_are_too_many_layers() -> None:
    """None is left out, and the name of a row says how many it holds."""
    known = LayerMap([f"layer{i}" for i in range(1000)], rows=100)
    values = np.ones(1000)
    values[777] = 50.0
    known.add(1, family(values.tolist()))
    assert known.values.shape == (1, 100)
    assert known.values.max() == 50.0
    assert known.names[0] == "layer0 +9"


def test_what_is_not_finite_and_what_was_not_measured_are_told_apart() -> None:
    """Inf for the one, NaN for the other; a later value fills a gap, nothing hides a NaN."""
    known = LayerMap(["0", "1", "2"], columns=2)
    known.add(1, family([np.nan, 1.0, 5.0], [False, False, True]))
    assert known.values.tolist()[0][:2] == [np.inf, 1.0]
    assert np.isnan(known.values[0, 2])
    for step in (2, 3):
        known.add(step, family([1.0, 1.0, 7.0]))
    assert known.values[0].tolist() == [np.inf, 1.0, 7.0]


def test_it_comes_back_from_its_state_and_goes_on() -> None:
    """As plain data, through MessagePack."""
    history = LayerHistory()
    for step in range(1, 400):
        history.note(Observation(step, {}, families={"grad_norm": family([step, 1.0])}))
    again = LayerHistory()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(history.state())))
    for one in (history, again):
        one.note(Observation(400, {}, families={"grad_norm": family([0.0, 7.0])}))
    found, kept = again.maps["grad_norm"], history.maps["grad_norm"]
    assert found.names == kept.names
    assert found.steps.tolist() == kept.steps.tolist()
    assert found.values.tolist() == kept.values.tolist()


def test_a_model_of_other_layers_begins_anew() -> None:
    """Rows of one model mean nothing for another."""
    history = LayerHistory()
    history.note(Observation(1, {}, families={"act_rms": family([1.0, 2.0])}))
    history.note(Observation(2, {}, families={"act_rms": family([1.0, 2.0, 3.0])}))
    assert history.maps["act_rms"].steps.tolist() == [2]


def test_as_many_layers_of_other_names_begin_anew_too() -> None:
    history = LayerHistory()
    for step, names in ((1, ("a", "b")), (2, ("a", "b")), (3, ("a", "c"))):
        named = replace(family([1.0, 2.0]), names=names)
        history.note(Observation(step, {}, families={"act_rms": named}))
    assert history.maps["act_rms"].steps.tolist() == [3]


def test_kept_layers_that_make_no_sense_cost_no_more_than_themselves() -> None:
    history = LayerHistory()
    for kind in ("grad_norm", "act_rms"):
        history.note(Observation(1, {}, families={kind: family([1.0, 2.0])}))
    state = history.state()
    state["act_rms"]["values"] = b"12345"
    again = LayerHistory()
    again.restore(state)
    assert set(again.maps) == {"grad_norm"}
