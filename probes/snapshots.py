"""A ring of snapshots in host memory, dense near the present and sparse further back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lossguard.probes import wire
from lossguard.probes.copy_cost import CopyCost
from lossguard.probes.free_memory import free_memory_bytes
from lossguard.probes.learning_rate import rate_on_host
from lossguard.probes.tensors import copies_done
from lossguard.probes.training_state import TrainingState, captured_bytes


@dataclass(frozen=True)
class Snapshot:
    """The state after the update of ``step``. ``learning_rates``: one per group, None on device.

    ``ready`` is a CUDA event after which another thread may read it; None: at once.
    """

    step: int
    kept: dict[str, Any]
    bytes: int
    learning_rates: tuple[float | None, ...]
    ready: Any = None
    taken_s: float = 0.0
    """By the monotonic clock [s]."""
    begun: Any = None
    """A CUDA event before the copies."""


class SnapshotRing:
    """Takes snapshots so seldom that they cost at most ``overhead`` of the training time.

    At most ``capacity`` snapshots and ``budget_bytes`` of memory (default: a quarter of what is
    free). When full, the one whose loss leaves the smallest gap relative to its age goes: what
    stays is spaced about evenly in the logarithm of the age, so that a trouble which took long
    to notice still finds a state from before it. The newest always stays; one older than
    ``horizon_steps`` goes as soon as there is another that is nearly as old. ``follows`` says what
    the script is about to do for the update that is done: a new process has to catch up on it.
    """

    def __init__(
        self,
        state: TrainingState,
        *,
        overhead: float = 0.01,
        min_interval_steps: int = 5,
        capacity: int = 12,
        horizon_steps: int = 5_000,
        budget_bytes: int | None = None,
        follows: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._state = state
        self._follows = follows
        self._overhead = overhead
        self._min_interval = min_interval_steps
        self._capacity = capacity
        self._horizon = horizon_steps
        self._budget = free_memory_bytes() // 4 if budget_bytes is None else budget_bytes
        self._ring: list[Snapshot] = []
        self._next_step = 0
        self._cost = CopyCost()
        self._taken_at = (0, 0.0)
        """The step of the last, and how long a step took then [s]."""
        self._reserved = 0

    @property
    def steps(self) -> list[int]:
        """The steps there is a snapshot of, oldest first."""
        return [snapshot.step for snapshot in self._ring]

    def held(self) -> list[wire.Held]:
        """What is there, oldest first, to be told to people. From any thread."""
        return [wire.Held(one.step, one.taken_s, one.bytes) for one in list(self._ring)]

    def is_due(self, step: int) -> bool:
        if self._cost.is_news():
            self._space_out()
        return step >= self._next_step

    def take(self, step: int, step_time_s: float) -> Snapshot:
        """Capture the state after ``step``. Raises MemoryError when one alone breaks the budget."""
        begun = time.perf_counter()
        snapshot = self.capture(step)
        self._ring = [kept for kept in self._ring if kept.step < step]
        self._ring.append(snapshot)
        self._fit()
        self._cost.took(time.perf_counter() - begun, snapshot.begun, snapshot.ready)
        self._taken_at = (step, step_time_s)
        self._space_out()
        return snapshot

    def _space_out(self) -> None:
        """When the next is due, by what the last ones cost."""
        step, step_time_s = self._taken_at
        rare = self._cost.seconds / (self._overhead * step_time_s) if step_time_s > 0 else 0.0
        self._next_step = step + max(self._min_interval, math.ceil(rare))

    def capture(self, step: int) -> Snapshot:
        """A snapshot that is not kept here. Raises MemoryError like ``take``."""
        self._require_fit(self._state.live_bytes())
        devices = self._state.devices()
        begun = copies_done(devices)
        with torch.inference_mode(False):  # a script may evaluate under it: ours are plain copies
            kept = self._state.capture()
        kept["follows"] = dict(self._follows())
        size = captured_bytes(kept)
        self._require_fit(size)
        rates = tuple(rate_on_host(group.get("lr")) for group in self._state.param_groups)
        return Snapshot(step, kept, size, rates, copies_done(devices), time.monotonic(), begun)

    def reserve(self, size: int) -> None:
        """Leave ``size`` bytes of the budget to others. Raises MemoryError where that leaves less
        than half of it."""
        if 2 * size > self._budget:
            raise MemoryError(f"{size} bytes are more than half of the budget {self._budget}")
        self._reserved = size
        self._fit()

    def _fit(self) -> None:
        """Let go of what is too much; the newest stays."""
        while len(self._ring) > 1 and (
            len(self._ring) > self._capacity or self._bytes() > self._budget - self._reserved
        ):
            del self._ring[self._least_needed()]

    def _require_fit(self, size: int) -> None:
        if size > self._budget:
            raise MemoryError(f"a snapshot of {size} bytes does not fit the budget {self._budget}")

    def _bytes(self) -> int:
        return sum(snapshot.bytes for snapshot in self._ring)

    def _least_needed(self) -> int:
        newest = self._ring[-1].step
        ages = [newest - snapshot.step for snapshot in self._ring]
        if len(ages) <= 2 or ages[1] >= self._horizon:
            return 0
        # Removing i leaves a gap from i-1 to i+1.
        ratios = [(ages[i - 1] + 1) / (ages[i + 1] + 1) for i in range(1, len(ages) - 1)]
        return 1 + ratios.index(min(ratios))

    def newest_before(self, step: int, deeper: int = 0) -> Snapshot | None:
        """The newest snapshot of a step at or before ``step``, or one that is ``deeper`` places
        older, as far as there are any; None where there is none."""
        fitting = [snapshot for snapshot in self._ring if snapshot.step <= step]
        return fitting[max(0, len(fitting) - 1 - deeper)] if fitting else None

    def restore(self, snapshot: Snapshot, *, random_generators: bool) -> None:
        """Go back to ``snapshot`` and drop those after it: they are of the undone past.

        Waits until its copies have arrived: some of it may be read on the host.
        """
        if snapshot.ready is not None:
            snapshot.ready.synchronize()
        self._state.restore(snapshot.kept, random_generators=random_generators)
        self._ring = [kept for kept in self._ring if kept.step <= snapshot.step]

    def clear(self) -> None:
        """Let go of all."""
        self._ring = []
