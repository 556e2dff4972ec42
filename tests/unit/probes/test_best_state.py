"""The state that was evaluated is the one that is kept, and only the newest best stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lossguard.errors import LossguardError
from lossguard.probes.best_state import BestState
from lossguard.probes.durable import DurableTier
from lossguard.probes.loading import load_snapshot
from lossguard.probes.orders import OrderFailed
from lossguard.probes.snapshots import SnapshotRing
from lossguard.probes.training_state import TrainingState
from tests.unit.probes.loops import Tiny

BYTES = 16_000
"""More than a Tiny with its optimizer takes."""


class Kept:
    """A model, and what holds and keeps its best state, by a clock that only a test moves."""

    def __init__(self, folder: Path, budget: int = 8 * BYTES) -> None:
        self.model = Tiny()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.ring = SnapshotRing(
            TrainingState(self.model, [optimizer]), min_interval_steps=1, budget_bytes=budget
        )
        self.said: list[str] = []
        self.tier = DurableTier(folder, {}, self.said.append, keep=1, least=1)
        self.now_s = 0.0
        self.best = BestState(self.ring, self.tier, self.said.append, clock=self.clock)

    def clock(self) -> float:
        """Every copy takes one second."""
        self.now_s += 0.5
        return self.now_s

    def set(self, value: float) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(value)

    def evaluate(self, step: int, value: float) -> None:
        """Long after the last time, in the state where every weight is ``value``."""
        self.now_s += 1e6
        self.set(value)
        self.best.hold(step)

    def on_disk(self) -> tuple[int, float]:
        """Step and weight of what is on disk."""
        self.tier.settle()
        kept = load_snapshot(self.tier.folder)
        return kept["step"], float(next(iter(kept["model"].values())).flatten()[0])


def test_the_state_of_the_evaluation_is_kept_though_the_training_has_gone_on(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path / "best")
    kept.evaluate(10, 1.0)
    kept.set(7.0)
    kept.best.keep(10)
    assert kept.on_disk() == (10, 1.0)


def test_only_the_newest_best_stays(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "best")
    for step in (10, 20, 5):  # another process begins anew under the same id
        kept.evaluate(step, float(step))
        kept.best.keep(step)
        kept.tier.settle()
    assert kept.tier.steps == [5]
    assert kept.on_disk() == (5, 5.0)


def test_a_state_that_is_not_held_any_more_is_refused_and_the_one_on_disk_stays(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path / "best")
    kept.evaluate(10, 1.0)
    kept.best.keep(10)
    kept.evaluate(20, 2.0)
    with pytest.raises(OrderFailed, match="after step 15 was not held"):
        kept.best.keep(15)
    assert kept.on_disk() == (10, 1.0)


def test_evaluations_that_come_too_soon_are_not_copied(tmp_path: Path) -> None:
    """A copy took half a second: the next is made after 25 s, 2 % of the time."""
    kept = Kept(tmp_path / "best")
    kept.evaluate(10, 1.0)
    kept.now_s += 20.0
    kept.best.hold(11)
    kept.now_s += 10.0
    kept.best.hold(12)
    with pytest.raises(OrderFailed):
        kept.best.keep(11)
    kept.best.keep(12)
    assert kept.on_disk()[0] == 12


def test_what_is_held_counts_within_the_budget_of_the_ring(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "best")
    size = kept.ring.capture(0).bytes
    tight = Kept(tmp_path / "tight", budget=6 * size)
    for step in range(1, 9):
        tight.ring.take(step, 0.0)
    assert len(tight.ring.steps) == 6
    tight.evaluate(10, 1.0)
    assert len(tight.ring.steps) == 4


def test_where_there_is_no_room_nothing_is_held_and_it_is_said_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "best")
    size = kept.ring.capture(0).bytes
    tight = Kept(tmp_path / "tight", budget=3 * size)
    for step in (10, 20):
        tight.evaluate(step, 1.0)
        with pytest.raises(OrderFailed):
            tight.best.keep(step)
    assert len(tight.said) == 1
    assert "the best state cannot be kept" in tight.said[0]


def test_a_damaged_snapshot_is_passed_over_and_a_folder_without_any_is_an_error(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path / "best")
    kept.evaluate(10, 1.0)
    kept.best.keep(10)
    assert kept.on_disk() == (10, 1.0)
    blobs = tmp_path / "best" / f"step-{10:015d}" / "blobs"
    content = bytearray(blobs.read_bytes())
    content[3] ^= 1
    blobs.write_bytes(content)
    with pytest.raises(LossguardError, match="checksum"):
        load_snapshot(tmp_path / "best")
    with pytest.raises(LossguardError, match="no snapshot"):
        load_snapshot(tmp_path)
