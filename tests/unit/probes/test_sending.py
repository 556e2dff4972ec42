"""Measurement and outbox: every value in its place, every loss of one counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lossguard.probes import wire
from lossguard.probes.measurement import (
    NO_FACTORS,
    Assembled,
    Measurement,
    Names,
    Sampled,
    Scaled,
    missing_value,
)
from lossguard.probes.outbox import Lost, Measured, Outbox, Parcel, Restored
from lossguard.probes.transfer import HostTransfer, Values

CPU = torch.device("cpu")


def a_measurement() -> Measurement:
    """Two parameters, one module, one of each of the sampled families."""
    names = Names(parameters=["a", "b"], modules=["m"], zeros=["r"], saturated=["s"], updated=["a"],
                  adapted=["a"])  # fmt: skip
    return Measurement("run", 0, names, CPU)


def device_part(
    measurement: Measurement,
    gradient_norms: Tensor | None = None,
    activation: Scaled | None = None,
    **plain: Tensor | float | None,
) -> Assembled:
    """Assembled from what is given; the rest is missing."""
    activation = activation or Scaled([None], np.ones(1, dtype=np.float32))
    return measurement.assemble(plain, gradient_norms, activation)


def read(item: Measured | None) -> dict[str, float | None]:
    """By name; None is missing."""
    assert item is not None
    values, _ = item.read()
    bits = values.view(np.uint32)
    return {
        name: None if b == wire.MISSING_BITS else float(v)
        for name, v, b in zip(item.layout.names, values, bits, strict=True)
    }


def known(item: Measured | None) -> dict[str, float]:
    """What was measured, by name."""
    return {name: value for name, value in read(item).items() if value is not None}


def test_every_value_has_its_name() -> None:
    """What the host knows, what the device knows, and the factor that makes a norm an RMS."""
    measurement = a_measurement()
    device = device_part(
        measurement,
        torch.tensor([3.0, 4.0]),
        Scaled([torch.tensor(6.0)], np.array([0.5], dtype=np.float32)),
        loss=torch.tensor(1.5),
        grad_norm=torch.tensor(5.0),
        loss_scale=torch.full((1,), 8.0)[0],
        skipped=torch.tensor(0.0),
        val_loss=torch.tensor(2.5),
        input_absmax=torch.tensor(9.0),
        input_mean=0.25,
    )
    host = {"lr": 0.25, "step_time": 2.0, "max_norm": 1.0}
    item = measurement.pack(1, 0.0, device, host, counts_as_update=True)
    assert known(item) == {
        "lr": 0.25, "step_time": 2.0, "max_norm": 1.0, "loss": 1.5, "grad_norm": 5.0,
        "loss_scale": 8.0, "skipped": 0.0, "val_loss": 2.5, "input_absmax": 9.0,
        "grad_norm/a": 3.0, "grad_norm/b": 4.0, "act_rms/m": 3.0, "input_mean": 0.25,
        "clip_coefficient": pytest.approx(0.2, rel=1e-5),
    }  # fmt: skip


def test_clipping_that_changed_nothing_has_a_coefficient_of_one() -> None:
    """And where nothing clips, or no norm is known, there is none."""
    measurement = a_measurement()
    for max_norm, norm, expected in ((9.0, 5.0, 1.0), (None, 5.0, None), (9.0, None, None)):
        total = None if norm is None else torch.tensor(norm)
        device = device_part(measurement, grad_norm=total)
        item = measurement.pack(1, 0.0, device, {"max_norm": max_norm}, counts_as_update=True)
        assert read(item)["clip_coefficient"] == expected


def sampled_part(measurement: Measurement, **changes: Any) -> Assembled:
    """Of a sampled step on which everything was measured, but for ``changes``."""
    found: dict[str, Any] = {
        "units": Scaled([torch.tensor(2.0), torch.tensor(3.0)], np.array([0.1, 0.2], "f4")),
        "outputs": torch.tensor([0.5, 0.6, 0.7, 8.0, 0.1]),
        "weight_norms": torch.tensor([10.0, 20.0]),
        "update_ratios": torch.tensor([1e-3]),
        "largest": [torch.tensor(11.0)],
        "moments": torch.tensor([1.5]),
    }
    activation = Scaled([torch.tensor(6.0)], np.array([0.5], dtype=np.float32))
    sampled = Sampled(**(found | changes))
    return measurement.assemble({}, torch.tensor([3.0, 4.0]), activation, sampled)


def test_a_sampled_step_has_more_names() -> None:
    """Shares of units scaled by the host, the statistics, norms and ratios; in a layout of its own,
    to which the steps between do not belong."""
    measurement = a_measurement()
    item = measurement.pack(16, 0.0, sampled_part(measurement), {}, counts_as_update=True)
    values = known(item)
    assert values == pytest.approx({
        "grad_norm/a": 3.0, "grad_norm/b": 4.0, "act_rms/m": 3.0, "zero_share/r": 0.2,
        "saturated_share/s": 0.6, "output_entropy": 0.5, "top_token_share": 0.6,
        "target_top_share": 0.7, "logit_z": 8.0, "weight_norm/a": 10.0, "weight_norm/b": 20.0,
        "update_ratio/a": 1e-3, "eos_share": 0.1, "act_absmax/m": 11.0, "adam_ratio/a": 1.5,
    })  # fmt: skip
    between = measurement.pack(17, 0.0, device_part(measurement), {}, counts_as_update=True)
    again = measurement.pack(32, 0.0, sampled_part(measurement), {}, counts_as_update=True)
    assert item is not None
    assert between is not None
    assert again is not None
    assert [i.layout.layout for i in (item, between, again)] == [1, 0, 1]
    assert not any("weight_norm" in name for name in between.layout.names)


def test_what_a_sampled_step_did_not_measure_is_missing() -> None:
    """Each of its parts by itself."""
    measurement = a_measurement()
    absent = {
        "units": Scaled([None, None], np.ones(2, dtype=np.float32)),
        "outputs": None,
        "weight_norms": None,
        "update_ratios": None,
        "largest": (),
        "moments": None,
    }
    full = known(measurement.pack(16, 0.0, sampled_part(measurement), {}, counts_as_update=True))
    for name, value in absent.items():
        part = sampled_part(measurement, **{name: value})
        values = known(measurement.pack(16, 0.0, part, {}, counts_as_update=True))
        assert values.items() < full.items()


def test_missing_survives_the_way_and_a_measured_nan_stays_one() -> None:
    """Through stack, cat, copy and multiplication: the bits of the one, not of the other."""
    measurement = a_measurement()
    device = device_part(
        measurement,
        activation=Scaled([None], np.array([0.5], dtype=np.float32)),
        loss=torch.tensor(math.nan),
    )
    host = {"lr": None, "step_time": math.nan}
    values = read(measurement.pack(1, 0.0, device, host, counts_as_update=True))
    assert [values[n] for n in ("lr", "grad_norm", "grad_norm/a", "act_rms/m")] == [None] * 4
    assert math.isnan(values["loss"] or 0)
    assert math.isnan(values["step_time"] or 0)


def test_the_missing_value_has_the_wires_bits() -> None:
    """Whatever the default dtype of the script."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            value = missing_value(CPU)
        finally:
            torch.set_default_dtype(before)
        assert int(value.view(torch.int32)) == wire.MISSING_BITS


def test_a_new_name_makes_a_new_layout() -> None:
    """And only then; the device's values keep their order after it."""
    measurement = a_measurement()
    vector = device_part(measurement, loss=torch.tensor(1.0))
    items = [
        measurement.pack(i, 0.0, vector, host, counts_as_update=True)
        for i, host in enumerate([{"lr": 1.0}, {"lr": 1.0, "accuracy": 7.0}, {"lr": 2.0}])
    ]
    assert [item.layout.layout for item in items if item] == [0, 2, 2]
    assert read(items[0])["loss"] == read(items[1])["loss"] == 1.0
    assert read(items[1])["accuracy"] == 7.0
    assert read(items[2])["accuracy"] is None


def test_a_logged_name_of_ours_does_not_appear_twice() -> None:
    """``guard.log(loss=...)``: what was measured stands; the names of a layout are unique."""
    measurement = a_measurement()
    vector = device_part(measurement, loss=torch.tensor(1.0))
    host = {"lr": 1.0, "loss": 9.0, "grad_norm/a": 9.0}
    item = measurement.pack(1, 0.0, vector, host, counts_as_update=True)
    assert item is not None
    assert len(set(item.layout.names)) == len(item.layout.names)
    assert read(item)["loss"] == 1.0


def test_values_beyond_float32_are_infinite() -> None:
    """Without a warning of NumPy's."""
    measurement = a_measurement()
    host = {"lr": 1e300, "step_time": -1e300}
    item = measurement.pack(1, 0.0, None, host, counts_as_update=False)
    assert (read(item)["lr"], read(item)["step_time"]) == (math.inf, -math.inf)
    assert read(item)["loss"] is None


def test_a_step_that_could_not_travel_leaves_a_gap_in_the_sequence() -> None:
    """Gaps are losses: as many as are counted."""

    class Full(HostTransfer):
        full = False

        def send(self, vector: Tensor) -> Any:
            return None if self.full else super().send(vector)

    measurement = a_measurement()
    measurement._transfer = full = Full()
    vector = device_part(measurement)
    sequences = []
    for blocked in (False, True, True, False):
        full.full = blocked
        item = measurement.pack(1, 0.0, vector, {}, counts_as_update=True)
        sequences.append(item.sequence if item else None)
    assert sequences == [1, None, None, 4]


# --- outbox ---------------------------------------------------------------------------------


class Late:
    """Values that arrive when told to."""

    def __init__(self, skipped: float = 0.0) -> None:
        self.there = False
        self.skipped = skipped

    def ready(self) -> bool:
        """Whether they have."""
        return self.there

    def read(self) -> Values:
        """One value: ``skipped``."""
        return np.array([self.skipped], dtype=np.float32)

    def peek(self, begin: int, end: int) -> Values:
        """Some of it."""
        return self.read()[begin:end]


LAYOUT = wire.Layout(run="run", rank=0, layout=0, names=["skipped"])


def measured(step: int, arrival: Late | None = None, skipped: float = 0.0) -> Measured:
    """A step of one value."""
    if arrival is None:
        arrival = Late(skipped)
        arrival.there = True
    return Measured(
        step=step,
        sequence=step,
        layout=LAYOUT,
        time_s=0.0,
        host=NO_FACTORS,
        arrival=arrival,
        factors=NO_FACTORS,
        factors_at=0,
        skip_index=0,
        counts_as_update=True,
    )


def steps(outbox: Outbox) -> list[int]:
    """The steps that wait to be sent."""
    return [parcel.header.step for parcel in outbox.parcels]


def test_what_has_not_arrived_keeps_its_place() -> None:
    """Later steps wait behind it, in order."""
    outbox = Outbox("run", 0)
    late = Late()
    for item in (measured(1), measured(2, late), measured(3)):
        outbox.put(item)
    assert outbox.collect(wait=False)
    assert steps(outbox) == [1]
    assert not outbox.collect(wait=False)
    late.there = True
    assert outbox.collect(wait=False)
    assert steps(outbox) == [1, 2, 3]


def test_waiting_takes_what_is_on_its_way() -> None:
    """At the very end of a run."""
    outbox = Outbox("run", 0)
    outbox.put(measured(1, Late()))
    outbox.collect(wait=True)
    assert steps(outbox) == [1]


def test_the_oldest_measurements_are_dropped_and_counted() -> None:
    """With an agent that is away: what stays is the newest, and the sum is right."""
    outbox = Outbox("run", 0)
    outbox.fit(100_000)
    for step in range(1, 1001):
        outbox.put(measured(step))
        if step % 7 == 0:
            outbox.collect(wait=False)
    outbox.collect(wait=False)
    assert steps(outbox) == list(range(1000 - len(outbox.parcels) + 1, 1001))
    assert len(outbox.parcels) == 83
    assert outbox.dropped == 1000 - 83


def test_with_a_dead_link_the_queue_is_bounded_by_bytes_too() -> None:
    """Nobody collects: a wide layout does not get to pile up thousands of steps."""
    outbox = Outbox("run", 0)
    outbox.fit(100_000)
    for step in range(1, 1001):
        outbox.put(measured(step))
    assert len(outbox._measured) == 2 * 83
    assert outbox.dropped == 1000 - 2 * 83


def test_words_stay_when_measurements_go() -> None:
    """Events and answers are never the ones to be dropped."""
    outbox = Outbox("run", 0)
    outbox.fit(1_000_000)
    event = wire.Event(run="run", rank=0, step=1, kind="k", message="m")
    outbox.say(event)
    for step in range(1, 500):
        outbox.put(measured(step))
        outbox.collect(wait=False)
    assert list(outbox.words) == [event]
    assert outbox.dropped > 0


def test_applied_counts_what_took_effect() -> None:
    """A skipped update does not count, a lost one does, a rollback takes back what it undid."""
    outbox = Outbox("run", 0)
    items: list[Measured | Lost | Restored] = [
        measured(1), measured(2), measured(3, skipped=1.0), measured(4), Lost(5), measured(6),
        Restored(3), measured(7), Restored(0), measured(8),
    ]  # fmt: skip
    for item in items:
        outbox.put(item)
    outbox.collect(wait=False)
    counts = {parcel.header.step: parcel.header.applied for parcel in outbox.parcels}
    assert counts == {1: 1, 2: 2, 3: 2, 4: 3, 6: 5, 7: 3, 8: 1}
    assert outbox.dropped == 1


def test_the_memory_for_rollbacks_is_bounded() -> None:
    """Of a long run only the last counts are kept, and they are right."""
    outbox = Outbox("run", 0)
    for step in range(1, 50_001):
        outbox.put(measured(step))
        outbox.collect(wait=False)
        outbox.parcels.clear()
    assert len(outbox._applied_at) <= 20_000
    outbox.put(Restored(45_000))
    outbox.collect(wait=False)
    assert outbox.applied == 45_000


def test_a_parcel_is_what_the_agent_can_read() -> None:
    """The header decodes, the payload is little-endian float32 in the order of the layout."""
    outbox = Outbox("run", 3)
    outbox.put(measured(9, skipped=4.0))
    outbox.collect(wait=False)
    parcel: Parcel = outbox.parcels[0]
    header = wire.decode_from_probe(wire.encode(parcel.header))
    assert isinstance(header, wire.Step)
    assert (header.run, header.rank, header.step, header.applied) == ("run", 3, 9, 0)
    assert np.frombuffer(parcel.payload, dtype="<f4").tolist() == [4.0]


@pytest.mark.parametrize("parameters", [1, 5_000, 7_000, 30_000])
def test_a_layout_fits_one_frame(parameters: int) -> None:
    """Past a million bytes the agent would drop the connection, for ever: the norms of
    parameters stay at home, the total goes on."""
    names = [f"layers.{i}.mlp.experts.gate_projection.weight" for i in range(parameters)]
    measurement = Measurement("run", 0, Names(parameters=names, modules=["m"]), CPU)
    norms = torch.ones(parameters)
    activation = Scaled([None], np.ones(1, dtype=np.float32))
    nothing = Scaled([], NO_FACTORS)
    plain = {"grad_norm": torch.tensor(2.0)}
    for sampled in (None, Sampled(nothing, None, norms, None)):
        device = measurement.assemble(plain, norms, activation, sampled)
        item = measurement.pack(1, 0.0, device, {"lr": 0.1}, counts_as_update=True)
        assert item is not None
        assert len(wire.encode(item.layout)) < wire.MAX_FRAME_BYTES
        assert read(item)["grad_norm"] == 2.0
