"""Snapshots of a GPU's memory: what they hold, what they take, and that going back is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lossguard.probes.durable import DurableTier, read_snapshot
from lossguard.probes.snapshots import SnapshotRing
from lossguard.probes.training_state import TrainingState
from tests.gpu.training import Optimize, Training, fused, no_wait, plain
from tests.unit.probes.loops import Watch, loop_of, same


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("optimize", [fused, plain])
def test_after_a_rollback_the_same_batches_give_the_same_bits(
    watch: Watch, optimize: Optimize, scales: bool
) -> None:
    """Dropout included: the device's generator goes back too. Twice, for the second is as exact."""
    training = Training(optimize, scales=scales)
    training.guard = watch(
        training.model, training.optimizer, scaler=training.scaler, policy="guard"
    )
    loop = loop_of(training.guard)
    loop._acting._ring._overhead = 1e9  # every five steps, however long they take
    training.steps(40)
    first = [*training.losses]
    for _ in range(2):
        answer = training.obey("rollback", onset=30, random=1)
        assert answer.status == "done", answer.result
        restored = int(answer.result["restored_step"])
        assert 0 < restored <= 28
        training.number = restored
        training.losses.clear()
        training.steps(40 - restored)
        assert same(training.losses, first[restored:])


def test_a_snapshot_is_of_its_moment_though_nothing_waited() -> None:
    """Copies are queued behind what wrote the weights and before what writes them next."""
    training = Training()
    training.steps(5)
    ring = SnapshotRing(TrainingState(training.model, [training.optimizer]))
    ring.capture(4)  # pinned memory is there from now on
    expected = training.state()
    with no_wait():
        snapshot = ring.capture(5)
        training.steps(20)
    torch.cuda.synchronize()
    ring.restore(snapshot, random_generators=False)
    assert same(training.state(), expected)
    kept = [*snapshot.kept["model"].values()]
    assert all(tensor.is_pinned() for tensor in kept)


def test_one_is_written_to_disk_while_the_training_goes_on(tmp_path: Path) -> None:
    """By a thread that waits for the copies, not for the training; bit for bit what it was."""
    training = Training()
    training.steps(5)
    ring = SnapshotRing(TrainingState(training.model, [training.optimizer]))
    reported: list[str] = []
    tier = DurableTier(tmp_path / "tier", {}, reported.append, interval_s=0.0)
    expected = training.state()
    assert tier.offer(ring.capture(5), now=True)
    with no_wait():
        training.steps(20)
    tier.settle()
    assert reported == []
    found = read_snapshot(tmp_path / "tier", 5)
    TrainingState(training.model, [training.optimizer]).restore(found.kept, random_generators=True)
    assert same(training.state(), expected)
    training.steps(2)


def test_a_snapshot_takes_no_more_than_is_counted_and_its_memory_is_used_again() -> None:
    """None of it is torch's, which would round up to a power of two and keep it."""
    model = torch.nn.Linear(1000, 1100, device="cuda")
    ring = SnapshotRing(TrainingState(model, []), capacity=1)
    torchs = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    places = set()
    for step in range(6):
        snapshot = ring.take(step, 0.1)
        weight, bias = snapshot.kept["model"].values()
        assert weight.is_pinned()
        assert 0 <= bias.data_ptr() - weight.data_ptr() - 4 * 1000 * 1100 < 256
        places.add(weight.data_ptr())
        torch.cuda.synchronize()
        assert torch.equal(weight, model.weight.detach().cpu())
    assert torch.cuda.host_memory_stats()["allocated_bytes.current"] == torchs
    assert len(places) == 2  # the one that is kept, and the one that is being taken


def test_how_often_snapshots_are_taken_goes_by_the_time_of_the_device_too() -> None:
    """The host only queues the copies."""
    model = torch.nn.Linear(4096, 8192, device="cuda")
    ring = SnapshotRing(TrainingState(model, []), capacity=1)
    for step in range(8):  # memory that is new costs the host
        ring.take(step, 1.0)
        torch.cuda.synchronize()
        ring.is_due(step)
    snapshot = ring.take(10, 1e-3)
    torch.cuda.synchronize()
    ring.is_due(10)
    device_s = snapshot.begun.elapsed_time(snapshot.ready) / 1000
    assert 128 * 2**20 / device_s < 200e9
    assert ring._cost._latest[-1] >= device_s
    assert ring._next_step == pytest.approx(10 + ring._cost.seconds / (0.01 * 1e-3), abs=2)
