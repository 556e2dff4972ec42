"""From the device to the host without waiting: one copy a step, read one step late."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lossguard.probes.device_events import destroy_no_more, new_event, record_on
from lossguard.probes.pinned import POOL
from lossguard.probes.wire import MISSING_BITS

Values = npt.NDArray[np.float32]


class Arrival(Protocol):
    """Values on their way to the host; all missing where the device is lost on the way."""

    def ready(self) -> bool: ...
    def read(self) -> Values:
        """Once, when ready; else it waits."""

    def peek(self, begin: int, end: int) -> Values:
        """Some of them, when ready; ``read`` may have been called, but not long ago."""


class Transfer(Protocol):
    """Sends device vectors to the host."""

    def send(self, vector: Tensor) -> Arrival | None:
        """Begin; None when all places are taken (the reader is late): the step is dropped."""


class _Arrived:
    """Values that are there."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def ready(self) -> bool:
        return True

    def read(self) -> Values:
        return self._values

    def peek(self, begin: int, end: int) -> Values:
        return self._values[begin:end]


class HostTransfer:
    """For a loop on the CPU: a copy of a few hundred bytes to kilobytes."""

    def send(self, vector: Tensor) -> Arrival:
        return _Arrived(vector.numpy().copy())


class _Pinned:
    """One place of the ring of pinned buffers."""

    def __init__(self, size: int, free: deque[_Pinned]) -> None:
        self.buffer = POOL.take(4 * size).view(torch.float32)
        self.event = new_event()
        self._free = free
        self._is_lost = False
        self.used = size

    def ready(self) -> bool:
        try:
            return self._is_lost or bool(self.event.query())
        except RuntimeError:  # a kernel has failed: the script will hear of it
            self._lose()
            return True

    def read(self) -> Values:
        try:
            if not self._is_lost:
                self.event.synchronize()  # in the reader's thread, at the very end of a run
        except RuntimeError:
            self._lose()
        values: Values = self.buffer.numpy()[: self.used].copy()
        if not self._is_lost:
            self._free.append(self)
        return values

    def _lose(self) -> None:
        self._is_lost = True
        destroy_no_more()
        self.buffer.view(torch.int32).fill_(MISSING_BITS)

    def peek(self, begin: int, end: int) -> Values:
        values: Values = self.buffer.numpy()[begin:end]
        return values


class PinnedTransfer:
    """For CUDA: a ring of pinned buffers, each with an event; the loop never waits for one."""

    def __init__(self, size: int, places: int = 16) -> None:
        self._free: deque[_Pinned] = deque()
        self._free.extend(_Pinned(size, self._free) for _ in range(places))

    def send(self, vector: Tensor) -> Arrival | None:
        try:
            place = self._free.popleft()
        except IndexError:
            return None
        place.used = vector.numel()
        place.buffer[: place.used].copy_(vector, non_blocking=True)
        record_on(place.event, vector.device)
        return place


class BlockingTransfer:
    """For devices without events of a kind we know (MPS, XPU ...): a blocking copy."""

    def send(self, vector: Tensor) -> Arrival:
        return _Arrived(vector.cpu().numpy())


def transfer_for(device: torch.device, size: int) -> Transfer:
    """The transfer that fits ``device``, for vectors of up to ``size`` float32."""
    if device.type == "cpu":
        return HostTransfer()
    if device.type == "cuda":
        return PinnedTransfer(size)
    return BlockingTransfer()
