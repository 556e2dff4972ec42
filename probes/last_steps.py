"""What the last steps drew from and were fed: random states, and on request the batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lossguard.probes.batch_copies import BatchCopies
from lossguard.probes.free_memory import free_memory_bytes
from lossguard.probes.graph_capture import is_capturing
from lossguard.probes.listener import LossCall
from lossguard.probes.pinned import side_by_side
from lossguard.probes.random_state import capture_random
from lossguard.probes.tensors import copies_done

_ASKED = "LOSSGUARD_KEEP_BATCHES"
_MOST_BYTES = 256 << 20
_SHARE = 8
"""Of the memory that is free, batches take this part at most."""
_STEPS = 64
_TOGETHER = 1 << 16
"""Small tensors of a batch share page-locked memory of this size [bytes]."""


class LastStep(NamedTuple):
    """One step: the random generators as its first forward began, and what it was fed."""

    step: int
    kept: dict[str, Any]
    """``random``; and where batches are kept ``forwards`` and ``targets``."""
    bytes: int
    ready: Any
    """An event behind the copies off a device; None where nothing is on its way."""

    @property
    def is_here(self) -> bool:
        """Whether all of it has arrived. Never waits."""
        try:
            return self.ready is None or bool(self.ready.query())
        except RuntimeError:  # a kernel has failed: nothing arrives any more
            return False

    @property
    def has_batch(self) -> bool:
        return bool(self.kept.get("forwards"))


@dataclass
class _Open:
    """The step that is under way."""

    random: dict[str, Any]
    copies: BatchCopies
    forwards: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)


class LastSteps:
    """The newest 64 steps that something is kept of.

    By default the state of the random generators, at one step of 16: some microseconds. With
    ``keep_batches`` that of every step, and copies in host memory of what its training forwards
    were given and of the targets of its losses: at most 256 MiB, and an eighth of what is free.
    Copies from CUDA are queued, not awaited, into pinned memory; taking that for the first batches
    may wait for the device. The training thread writes; another may ``find`` at any time.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        self._ring: deque[LastStep] = deque(maxlen=_STEPS)
        self._open: _Open | None = None
        self._bytes = 0
        self._budget = budget_bytes
        self.keeps_batches = False
        self.too_large = False
        """Whether there was a batch that alone is over the budget."""
        if os.environ.get(_ASKED, "") not in ("", "0"):
            self.keep_batches()

    def keep_batches(self) -> None:
        """From now on."""
        self.keeps_batches = True
        if self._budget is None:
            self._budget = min(_MOST_BYTES, free_memory_bytes() // _SHARE)

    def forward_begins(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], sampled: bool
    ) -> None:
        """The model is given something to train on."""
        wanted = self.keeps_batches or sampled or not self._ring
        # The generators must not be asked while their draws go into a graph.
        if self._open is None and wanted and not is_capturing():
            self._open = _Open(capture_random(), BatchCopies(self._make_room))
        now = self._open
        if self.keeps_batches and now is not None and not now.copies.too_large:
            with side_by_side(0, at_least=_TOGETHER):
                given = {"args": now.copies.of(args), "kwargs": now.copies.of(dict(kwargs))}
            now.forwards.append(given)

    def loss_is_asked(self, call: LossCall) -> None:
        """A loss is computed, with gradients."""
        now = self._open
        if self.keeps_batches and now is not None and not now.copies.too_large:
            with side_by_side(0, at_least=_TOGETHER):
                now.targets.append(now.copies.of(call.arguments().get("target")))

    def step_ends(self, step: int) -> None:
        """What was kept since the last step is of this one."""
        now, self._open = self._open, None
        if now is None:
            return
        kept: dict[str, Any] = {"random": now.random}
        size, devices = now.copies.bytes, now.copies.devices
        if now.copies.too_large:
            self.too_large, size, devices = True, 0, set()
        elif now.forwards:
            kept |= {"forwards": now.forwards, "targets": now.targets}
        if len(self._ring) == _STEPS:
            self._forget_oldest()
        self._ring.append(LastStep(step, kept, size, copies_done(devices)))
        self._bytes += size

    def _make_room(self, size: int) -> bool:
        """For the batch of the step that is under way; False where it is over the budget alone."""
        budget = self._budget or 0
        if size > budget:
            return False
        while self._bytes + size > budget:
            self._forget_oldest()
        return True

    def find(self, step: int) -> LastStep | None:
        """What is kept of a step, or else of the newest before it: its random state, from which
        the step can be reached again."""
        before = [last for last in tuple(self._ring) if last.step <= step]
        return before[-1] if before else None

    def _forget_oldest(self) -> None:
        self._bytes -= self._ring.popleft().bytes
