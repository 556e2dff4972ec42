"""What the last steps drew from and were fed: random states, and on request the batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lossguard.probes.free_memory import free_memory_bytes
from lossguard.probes.listener import LossCall
from lossguard.probes.random_state import capture_random
from lossguard.probes.tensors import to_host

_ASKED = "LOSSGUARD_KEEP_BATCHES"
_MOST_BYTES = 256 << 20
_SHARE = 8
"""Of the memory that is free, batches take this part at most."""
_STEPS = 64
_DEEPEST = 6
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


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
        return self.ready is None or bool(self.ready.query())

    @property
    def has_batch(self) -> bool:
        return bool(self.kept.get("forwards"))


@dataclass
class _Open:
    """The step that is under way."""

    random: dict[str, Any]
    forwards: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    bytes: int = 0
    on_device: bool = False


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
        self.too_large = 0
        """Size of a batch that alone is over the budget, or 0 [bytes]."""
        if os.environ.get(_ASKED, "") not in ("", "0"):
            self.keep_batches()

    def keep_batches(self) -> None:
        """From now on."""
        self.keeps_batches = True
        if self._budget is None:
            self._budget = min(_MOST_BYTES, free_memory_bytes() // _SHARE)

    def forward_begins(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, sampled: bool
    ) -> None:
        """The model is given something to train on."""
        if self._open is None and (self.keeps_batches or sampled or not self._ring):
            self._open = _Open(capture_random())
        if self.keeps_batches and self._open is not None:
            given = {"args": self._copy(args), "kwargs": self._copy(dict(kwargs))}
            self._open.forwards.append(given)

    def loss_is_asked(self, call: LossCall) -> None:
        """A loss is computed, with gradients."""
        if self.keeps_batches and self._open is not None:
            self._open.targets.append(self._copy(call.arguments().get("target")))

    def step_ends(self, step: int) -> None:
        """What was kept since the last step is of this one."""
        now, self._open = self._open, None
        if now is None:
            return
        kept: dict[str, Any] = {"random": now.random}
        if now.bytes > (self._budget or 0):
            self.too_large = now.bytes
            now.bytes, now.on_device = 0, False
        elif now.forwards:
            kept |= {"forwards": now.forwards, "targets": now.targets}
        if len(self._ring) == _STEPS:
            self._forget_oldest()
        self._ring.append(LastStep(step, kept, now.bytes, _arrival() if now.on_device else None))
        self._bytes += now.bytes
        while self._bytes > (self._budget or 0):
            self._forget_oldest()

    def find(self, step: int) -> LastStep | None:
        """What is kept of a step, or else of the newest before it: its random state, from which
        the step can be reached again."""
        before = [last for last in tuple(self._ring) if last.step <= step]
        return before[-1] if before else None

    def _forget_oldest(self) -> None:
        self._bytes -= self._ring.popleft().bytes

    def _copy(self, value: Any, depth: int = _DEEPEST) -> Any:
        """A copy in host memory; of what is no plain data its kind."""
        if isinstance(value, Tensor):
            return self._copy_of(value)
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, np.ndarray):
            return value.copy()
        if depth and isinstance(value, Mapping):
            return {str(key): self._copy(item, depth - 1) for key, item in value.items()}
        if depth and isinstance(value, (list, tuple)):
            return [self._copy(item, depth - 1) for item in value]
        return f"<{type(value).__qualname__}, not kept>"

    def _copy_of(self, tensor: Tensor) -> Any:
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not plain or tensor.is_quantized or tensor.is_meta or self._open is None:
            return f"<{type(tensor).__qualname__} on {tensor.device}, not kept>"
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            return f"<{type(tensor).__qualname__} of a captured graph, not kept>"
        self._open.bytes += tensor.numel() * tensor.element_size()
        if self._open.bytes > (self._budget or 0):
            return "<too large, not kept>"
        self._open.on_device |= tensor.device.type != "cpu"
        with torch.inference_mode(False), torch.no_grad():
            return to_host(tensor)


def _arrival() -> Any:
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event
