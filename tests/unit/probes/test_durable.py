"""Snapshots on disk: written aside, whole or not at all, and never the last good one lost."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from lossguard.probes.durable import DurableTier
from lossguard.probes.durable_files import Disk, folder_of, write_folder
from lossguard.probes.random_state import capture_random
from lossguard.probes.snapshots import Snapshot
from lossguard.probes.training_state import TrainingState


class Tier:
    """A tier that writes as soon as it is asked to, and what it reported."""

    def __init__(self, folder: Path, disk: Disk | None = None, keep: int = 3) -> None:
        self.reported: list[str] = []
        self.tier = DurableTier(
            folder, {"run": "r1", "name": "gpt"}, self.reported.append,
            keep=keep, interval_s=0.0, disk=disk,
        )  # fmt: skip

    def write(self, snapshot: Snapshot) -> None:
        assert self.tier.offer(snapshot)
        self.tier.settle()


def a_training() -> TrainingState:
    """With moments, a schedule and something of the user's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    return TrainingState(model, [optimizer], [scheduler], extra={"ema": {"w": torch.ones(3)}})


def train(state: TrainingState, steps: int) -> list[float]:
    """On random batches, so that the generators matter too."""
    assert state.model is not None
    losses = []
    for _ in range(steps):
        loss = state.model(torch.randn(6, 4)).square().mean()
        state.optimizers[0].zero_grad()
        loss.backward()
        state.optimizers[0].step()
        state.schedulers[0].step()
        losses.append(loss.item())
    return losses


def snapshot(state: TrainingState, step: int) -> Snapshot:
    return Snapshot(step, state.capture(), state.live_bytes(), (0.1,))


def small(step: int, **kept: Any) -> Snapshot:
    """Next to nothing."""
    return Snapshot(step, {"model": {}, "optimizers": []} | kept, 0, (0.1, None))


def test_a_training_goes_on_bitwise_from_disk(tmp_path: Path) -> None:
    """In another process' objects, and twice from the same snapshot."""
    state, disk = a_training(), Tier(tmp_path)
    train(state, 3)
    disk.write(snapshot(state, 3))
    expected = train(state, 5)
    for _ in range(2):
        fresh = a_training()
        train(fresh, 1)
        found = disk.tier.newest_before(10)
        assert found is not None
        assert (found.step, found.learning_rates, found.missing) == (3, (0.1,), ())
        assert found.about["name"] == "gpt"
        fresh.restore(found.kept, random_generators=True)
        assert train(fresh, 5) == expected
    assert disk.reported == []


def test_the_newest_before_a_step_is_found(tmp_path: Path) -> None:
    """Not one of after it."""
    disk = Tier(tmp_path)
    for step in (10, 20, 30):
        disk.write(small(step))
    assert [getattr(disk.tier.newest_before(s), "step", None) for s in (9, 10, 29, 99)] == [
        None, 10, 20, 30,
    ]  # fmt: skip


def test_a_damaged_one_is_passed_over_and_said(tmp_path: Path) -> None:
    """One flipped bit in the weights, of all places."""
    state, disk = a_training(), Tier(tmp_path)
    disk.write(snapshot(state, 10))
    disk.write(snapshot(state, 20))
    blobs = folder_of(tmp_path, 20) / "blobs"
    content = bytearray(blobs.read_bytes())
    content[len(content) // 2] ^= 1
    blobs.write_bytes(content)
    found = disk.tier.newest_before(99)
    assert found is not None
    assert found.step == 10
    (said,) = disk.reported
    assert "passed over" in said
    assert "checksum" in said


def test_old_ones_go_and_two_always_stay(tmp_path: Path) -> None:
    """Even where one was asked for."""
    disk = Tier(tmp_path, keep=1)
    for step in range(1, 6):
        disk.write(small(step))
    assert disk.tier.steps == [4, 5]


def test_a_failed_write_costs_no_snapshot_and_is_said_once(tmp_path: Path) -> None:
    """The disk is full; the old ones stay, and the next is tried again."""

    class Full(Disk):
        full = False

        def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().write(path, chunks)

    full = Full()
    disk = Tier(tmp_path, full)
    disk.write(small(1))
    disk.write(small(2))
    full.full = True
    disk.write(small(3))
    disk.write(small(4))
    assert disk.tier.steps == [1, 2]
    assert len(disk.reported) == 1
    assert "step 3 was not written" in disk.reported[0]
    full.full = False
    disk.write(small(5))
    assert disk.tier.steps == [1, 2, 5]


def test_a_snapshot_that_may_not_fit_is_not_tried(tmp_path: Path) -> None:
    """Filling the disk would end more than this run."""
    disk = Tier(tmp_path)
    disk.write(Snapshot(1, {"model": {}}, 2**60, ()))
    assert disk.tier.steps == []
    assert "bytes are free" in disk.reported[0]


def test_what_cannot_be_written_is_left_out_and_named(tmp_path: Path) -> None:
    """Of the rest; without the model there is nothing."""
    disk = Tier(tmp_path)
    disk.write(small(1, extra={"good": 1, "bad": object()}, random=capture_random()))
    found = disk.tier.newest_before(1)
    assert found is not None
    assert found.missing == ("extra.bad is a object",)
    assert found.kept["extra"] == {"good": 1}
    disk.write(small(2, model={"w": object()}))
    assert disk.tier.steps == [1]
    assert "model.w is a object" in disk.reported[0]


def test_a_rollback_takes_the_undone_ones_with_it(tmp_path: Path) -> None:
    """They are of a past that did not happen."""
    disk = Tier(tmp_path)
    for step in (10, 20, 30):
        disk.write(small(step))
    assert [one.step for one in disk.tier.written] == [10, 20, 30]
    disk.tier.forget_after(15)
    assert disk.tier.steps == [10]
    assert [one.step for one in disk.tier.written] == [10]


def test_one_is_written_at_a_time(tmp_path: Path) -> None:
    """The training goes on meanwhile; what is offered too early is not queued."""
    reached, go_on = threading.Event(), threading.Event()

    class Slow(Disk):
        def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
            reached.set()
            assert go_on.wait(20.0)
            super().write(path, chunks)

    disk = Tier(tmp_path, Slow())
    assert disk.tier.offer(small(1))
    assert reached.wait(20.0)
    assert not disk.tier.offer(small(2))
    assert disk.tier.steps == [], "what is half written is not there"
    go_on.set()
    disk.tier.settle()
    assert disk.tier.steps == [1]


@pytest.mark.parametrize("interval_s", [0.0, 3600.0])
def test_they_are_as_rare_as_asked_for(tmp_path: Path, interval_s: float) -> None:
    """Disks wear out, and fill."""
    tier = DurableTier(tmp_path, {}, print, interval_s=interval_s)
    assert tier.offer(small(1))
    tier.settle()
    assert tier.offer(small(2)) is (interval_s == 0.0)
    tier.settle()


def test_snapshots_of_old_runs_go_and_nothing_else_does(tmp_path: Path) -> None:
    """Three other runs keep theirs; a folder that holds anything else is not ours to remove."""
    for i in range(6):
        Tier(tmp_path / f"run-{i}").write(small(1))
        os.utime(tmp_path / f"run-{i}", (i, i))
    (tmp_path / "run-0" / "notes").write_text("mine")
    (tmp_path / "empty").mkdir()
    tier = DurableTier(tmp_path / "now", {}, print, interval_s=0.0, among_runs=True)
    assert tier.offer(small(1))
    tier.settle()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "empty", "now", "run-0", "run-3", "run-4", "run-5",
    ]  # fmt: skip


def test_the_ranks_of_a_run_are_one_run(tmp_path: Path) -> None:
    """None removes what the others have just written, and an old run goes with all its ranks."""
    names = [f"now.rank{rank}" for rank in range(8)]
    names += [f"old-{i}.rank{rank}" for i in range(4) for rank in range(2)]
    for name in names:
        Tier(tmp_path / name).write(small(1))
        when = int(name[4]) if name.startswith("old") else 9
        os.utime(tmp_path / name, (when, when))
    tier = DurableTier(tmp_path / "now.rank8", {}, print, interval_s=0.0, among_runs=True)
    assert tier.offer(small(1))
    tier.settle()
    gone = {"old-0.rank0", "old-0.rank1"}
    assert {p.name for p in tmp_path.iterdir()} == {*names, "now.rank8"} - gone


def test_a_run_that_is_still_trained_keeps_its_own_however_many_there_are(tmp_path: Path) -> None:
    """Eight experiments on one machine, and some of other machines in the same home."""
    here: dict[str, Any] = {"pid": os.getppid(), "host": socket.gethostname()}
    started_s = int(psutil.Process(here["pid"]).create_time())
    abouts: dict[str, dict[str, Any]] = {
        **{f"here-{i}": here | {"started_s": started_s} for i in range(4)},
        **{
            f"elsewhere-{i}": {"pid": 1, "host": "another", "written_s": time.time()}
            for i in (0, 1)
        },
        **{f"ended-{i}": here | {"started_s": started_s - 1000} for i in range(2)},
        "long-ago": {"pid": 1, "host": "another", "written_s": time.time() - 7200.0},
        **{f"newest-{i}": {} for i in range(3)},
    }
    for age, (name, about) in enumerate(abouts.items()):
        write_folder(tmp_path / name, 1, {}, about)
        os.utime(tmp_path / name, (age, age))
    tier = DurableTier(tmp_path / "now", {}, print, interval_s=0.0, among_runs=True)
    assert tier.offer(small(1))
    tier.settle()
    gone = {"ended-0", "ended-1", "long-ago"}
    assert {p.name for p in tmp_path.iterdir()} == {*abouts, "now"} - gone


def test_a_process_that_wrote_nothing_removes_nothing_of_the_one_before(tmp_path: Path) -> None:
    """It has the same run (LOSSGUARD_RUN), did not go on from it, and came to its own end."""
    Tier(tmp_path / "r").write(small(10))
    DurableTier(tmp_path / "r", {}, print).remove()
    assert folder_of(tmp_path / "r", 10).exists()


def test_what_another_process_of_this_run_left_is_set_aside_and_kept(tmp_path: Path) -> None:
    """Its steps are other steps: a rollback must not go to them."""
    Tier(tmp_path / "r.rank1").write(small(10))
    again = Tier(tmp_path / "r.rank1")
    assert again.tier.newest_before(50) is None
    again.write(small(20))
    found = again.tier.newest_before(50)
    assert found is not None
    assert found.step == 20
    assert again.tier.steps == [20]
    (aside,) = tmp_path.glob("r.before-*.rank1")
    assert (aside / folder_of(aside, 10).name / "manifest.json").exists()


def test_what_it_goes_on_from_is_its_own(tmp_path: Path) -> None:
    """In the same folder, its steps counted on; what was left of later steps is undone."""
    first = Tier(tmp_path / "r")
    first.write(small(10))
    first.write(small(20))
    again = Tier(tmp_path / "r")
    again.tier.go_on_from(("r",), 10)
    assert again.tier.steps == [10]
    again.write(small(5))
    assert again.tier.steps == [10, 15]
    found = again.tier.newest_before(5)
    assert found is not None
    assert found.step == 5
