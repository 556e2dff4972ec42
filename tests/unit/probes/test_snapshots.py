"""The ring: bounded, thinned towards the past, cheap."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lossguard.probes.free_memory import free_memory_bytes
from lossguard.probes.snapshots import SnapshotRing
from lossguard.probes.training_state import TrainingState


class FakeState(TrainingState):
    """Captures ``size`` bytes that are no bytes at all, in ``cost_s`` of a clock of its own."""

    def __init__(self, size: int = 100, cost_s: float = 0.0) -> None:
        weight = torch.nn.Parameter(torch.ones(1))
        super().__init__(None, [torch.optim.SGD([weight], lr=0.5)])
        self.size = size
        self.cost_s = cost_s
        self.now_s = 0.0
        self.captures = 0
        self.restored: Any = None

    def capture(self) -> dict[str, Any]:
        """A stand-in whose meta tensor has a size and no memory."""
        self.captures += 1
        self.now_s += self.cost_s
        return {"tensor": torch.empty(self.size, dtype=torch.uint8, device="meta")}

    def live_bytes(self) -> int:
        """What it will be."""
        return self.size

    def restore(self, kept: Any, *, random_generators: bool) -> None:
        """Remember what was asked for."""
        self.restored = kept


def filled(steps: range, **settings: Any) -> SnapshotRing:
    """A ring that was offered every step of ``steps``."""
    ring = SnapshotRing(FakeState(), **settings)
    for step in steps:
        ring.take(step, 0.0)
    return ring


def test_it_never_holds_more_than_its_capacity_and_always_the_newest() -> None:
    """At every step."""
    ring = SnapshotRing(FakeState(), capacity=5)
    for step in range(1, 200):
        ring.take(step, 0.0)
        assert len(ring.steps) <= 5
        assert ring.steps[-1] == step
        assert ring.steps == sorted(set(ring.steps))


@pytest.mark.parametrize("budget", [100, 250, 1000])
def test_it_never_holds_more_bytes_than_its_budget(budget: int) -> None:
    """Snapshots of 100 bytes each."""
    ring = filled(range(1, 100), budget_bytes=budget)
    assert len(ring.steps) == min(12, budget // 100)
    assert ring.steps[-1] == 99


def test_a_state_larger_than_the_budget_is_not_even_captured() -> None:
    """Copying it first would be what runs out of memory."""
    state = FakeState(size=1001)
    ring = SnapshotRing(state, budget_bytes=1000)
    with pytest.raises(MemoryError, match="does not fit"):
        ring.take(1, 0.0)
    assert state.captures == 0
    assert ring.steps == []


def test_a_budget_of_nothing_is_nothing() -> None:
    """Zero free memory must not read as no limit."""
    with pytest.raises(MemoryError):
        SnapshotRing(FakeState(), budget_bytes=0).take(1, 0.0)


def test_ages_are_spaced_by_their_logarithm() -> None:
    """From the newest back to thousands of steps, no age is missed by more than a factor."""
    ring = filled(range(1, 4001), capacity=12)
    ages = [4000 - step for step in ring.steps]
    assert ages[-1] == 0
    assert ages[0] > 1000
    for older, younger in pairwise(ages):
        assert (older + 1) / (younger + 1) < 12
    assert sum(age < 20 for age in ages) >= 3


def test_what_is_beyond_the_horizon_goes() -> None:
    """Nobody rolls back by ten horizons."""
    ring = filled(range(1, 5001), capacity=6, horizon_steps=200)
    assert max(5000 - step for step in ring.steps[1:]) < 1000


def test_the_newest_before_a_step_is_found() -> None:
    """At it counts as before it; older than all is none."""
    ring = SnapshotRing(FakeState())
    for step in (10, 20, 30):
        ring.take(step, 0.0)
    found = [ring.newest_before(step) for step in (9, 10, 29, 30, 99)]
    assert [f.step if f else None for f in found] == [None, 10, 20, 30, 30]


def test_a_restore_drops_what_came_after() -> None:
    """They are of a past that has been undone; the one restored stays for the next time."""
    ring = SnapshotRing(FakeState())
    for step in (10, 20, 30, 40):
        ring.take(step, 0.0)
    target = ring.newest_before(25)
    assert target is not None
    ring.restore(target, random_generators=False)
    assert ring.steps == [10, 20]


def test_a_second_snapshot_of_a_step_replaces_the_first() -> None:
    """One by hand and one by the clock do not take two places."""
    ring = SnapshotRing(FakeState())
    ring.take(10, 0.0)
    second = ring.take(10, 0.0)
    assert ring.steps == [10]
    assert ring.newest_before(10) is second


def test_the_interval_follows_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture of 0.2 s in a loop of 0.1 s a step: at 1 % once in 200 steps, not in 5."""
    for cost_s, interval in ((0.2, 200), (0.0, 5)):
        state = FakeState(cost_s=cost_s)
        monkeypatch.setattr(time, "perf_counter", lambda state=state: state.now_s)
        ring = SnapshotRing(state, overhead=0.01)
        taken = []
        for step in range(1, 1001):
            if ring.is_due(step):
                ring.take(step, 0.1)
                taken.append(step)
        gaps = {b - a for a, b in pairwise(taken)}
        assert gaps <= {interval, interval + 1}


@pytest.mark.parametrize(("long_ones", "longest"), [({4}, 10), ({4, 5}, 1000)])
def test_one_interrupted_capture_does_not_put_off_the_next(
    monkeypatch: pytest.MonkeyPatch, long_ones: set[int], longest: int
) -> None:
    """On a busy machine one takes 100 times as long; two of three are what it costs now."""
    state = FakeState(cost_s=0.01)
    monkeypatch.setattr(time, "perf_counter", lambda: state.now_s)
    ring = SnapshotRing(state, overhead=0.01)
    taken: list[int] = []
    for step in range(3001):
        if ring.is_due(step):
            state.cost_s = 1.0 if len(taken) in long_ones else 0.01
            ring.take(step, 0.1)
            taken.append(step)
    gaps = {b - a for a, b in pairwise(taken)}
    assert longest <= max(gaps) <= longest + 1


def test_a_hundred_thousand_steps_take_no_more_than_a_thousand() -> None:
    """The ring is the same size, and thinning is not slower."""
    ring = filled(range(1, 100_001), capacity=8)
    assert len(ring.steps) == 8
    assert ring.steps[-1] == 100_000


def test_the_rates_of_the_groups_are_kept() -> None:
    """Those a hold goes by; a tensor on the host is a number too."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups: list[dict[str, Any]] = [
        {"params": [weights[0]], "lr": 0.5},
        {"params": [weights[1]], "lr": torch.tensor(0.25)},
    ]
    ring = SnapshotRing(TrainingState(None, [torch.optim.SGD(groups)]))
    assert ring.take(1, 0.0).learning_rates == (0.5, 0.25)


def _limited(root: Path, limit: str, used: int, cache: int) -> Path:
    (root / "memory.max").write_text(limit)
    (root / "memory.current").write_text(str(used))
    (root / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")
    return root


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000", 1000 - 700 + 100), ("500", 0), ("max", math.inf)]
)
def test_the_containers_limit_counts(tmp_path: Path, limit: str, expected: float) -> None:
    """What the cgroup leaves, its reclaimable cache included; without a limit, the machine's."""
    free = free_memory_bytes(_limited(tmp_path, limit, 700, 100))
    assert free == expected if math.isfinite(expected) else free > 1000


def test_what_is_held_can_be_told_to_people() -> None:
    """Step, time and size of each, oldest first, and no more after they are let go."""
    begun = time.monotonic()
    ring = filled(range(1, 4))
    assert [(one.step, one.bytes, one.on_disk) for one in ring.held()] == [
        (1, 100, False), (2, 100, False), (3, 100, False),
    ]  # fmt: skip
    assert all(begun <= one.taken_s <= time.monotonic() for one in ring.held())
    ring.clear()
    assert ring.held() == []
