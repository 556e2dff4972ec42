"""The state that was evaluated: held until its loss is judged, and kept if it is the best."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lossguard.probes.durable import DurableTier
from lossguard.probes.orders import OrderFailed
from lossguard.probes.snapshots import Snapshot, SnapshotRing

_OVERHEAD = 0.02
"""Share of the time that holding what is evaluated may cost."""


class BestState:
    """Holds a copy of the newest state that was evaluated, and hands it to ``tier`` when told.

    The copy is made as the evaluation begins, so it is the very state that is judged, although the
    word about it comes some steps later. It counts within the ring's budget, once for what is held
    and once for what is being written. Evaluations that come so often that their copies would cost
    more than ``_OVERHEAD`` of the time are passed over.
    """

    def __init__(
        self,
        ring: SnapshotRing,
        tier: DurableTier,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ring = ring
        self._tier = tier
        self._report = report
        self._clock = clock
        self._held: Snapshot | None = None
        self._next_s = -float("inf")
        self._cost_s = float("inf")
        self._works = True

    def hold(self, step: int) -> None:
        """The state after ``step`` is being evaluated. Costs one pass over its bytes, or nothing
        where it is held already, or too soon, or too large for the budget (said once)."""
        begun = self._clock()
        if not self._works or begun < self._next_s:
            return
        if self._held is not None and self._held.step == step:
            return
        try:
            self._held = self._ring.capture(step)
            self._ring.reserve(2 * self._held.bytes)
        except MemoryError as error:
            self._works, self._held = False, None
            self._ring.reserve(0)
            self._report(f"the best state cannot be kept: {error}")
            return
        ended = self._clock()
        # One slow copy (the machine was busy) must not keep the next ones waiting for long.
        cost_s, self._cost_s = min(ended - begun, self._cost_s), ended - begun
        self._next_s = ended + cost_s / _OVERHEAD

    def keep(self, step: int) -> Path:
        """Write the state after ``step`` to disk, in the place of the one before; where to.

        Raises OrderFailed where it is not held, or another is being written.
        """
        held = self._held
        if held is None or held.step != step:
            raise OrderFailed(f"the state after step {step} was not held when it was evaluated")
        if not self._tier.offer(held, now=True):
            raise OrderFailed("another best state is being written")
        return self._tier.folder

    def clear(self) -> None:
        """Hold nothing."""
        self._held = None
        self._ring.reserve(0)
