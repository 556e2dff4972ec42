"""Page-locked host memory: what a GPU can copy into while the host goes on.

Not from torch's own store of it. That rounds every tensor up to a power of two and never gives
anything back; and where a kernel has failed (a device-side assert) it ends the process by SIGABRT
when such memory is let go, in place of the script's own error.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import torch
from torch import Tensor

log = logging.getLogger("lossguard")

_ALIGNED = 256
"""Tensors begin at multiples of it [bytes], as a GPU's own do."""
_AT_LEAST = 1 << 20
_PORTABLE = 1
"""Locked for the contexts of all devices."""
_FITS = 1.5
"""A block that is free is taken for what needs at least two thirds of it."""


class _Block:
    """Locked memory. Forked children do not get it: what a device writes must not be copied.

    It stays mapped until it is unlocked, though everything of ours be interrupted: where the
    allocator put something else, the driver would take that for ours.
    """

    def __init__(self, size: int) -> None:
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.memory))
        self.memory.madvise(mmap.MADV_DONTFORK)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        code = int(torch.cuda.cudart().cudaHostRegister(self.address, self.size, _PORTABLE))
        if code:
            _take_last_error()
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(self.memory))
            raise MemoryError(f"{self.size} bytes could not be page-locked (CUDA error {code})")

    def unlock(self) -> None:
        """Nothing may be on its way to or from it. Says nothing where the device is lost."""
        if int(torch.cuda.cudart().cudaHostUnregister(self.address)) == 0:
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(self.memory))


def _take_last_error() -> None:
    """CUDA keeps the error of a call for whoever asks next: that would be the script's next kernel.
    So it is one of ours."""
    with suppress(RuntimeError):
        torch.empty(1, device="cuda").add_(1)


class PinnedMemory:
    """Blocks that are used again once nothing refers to them.

    A block is taken again without waiting for copies that are still on their way: whoever takes
    one queues what it copies behind them, on the same stream.
    """

    def __init__(self) -> None:
        self._free: list[_Block] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Tensor:
        """uint8 of shape (size,), for as long as it or a view of it is there.

        Where no more can be locked it is torch's, which raises RuntimeError where that has none
        either. To lock new memory costs 0.4 s a GiB, once.
        """
        try:
            block = self._taken(size) or _Block(size)
        except MemoryError as error:
            log.debug("%s: taken from torch", error)
            return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
        lease = (ctypes.c_char * size).from_buffer(block.memory)
        weakref.finalize(lease, self._free.append, block).atexit = False
        return torch.frombuffer(lease, dtype=torch.uint8)

    def _taken(self, size: int) -> _Block | None:
        with self._lock:
            fitting = [b for b in self._free if size <= b.size <= max(_FITS * size, _AT_LEAST)]
            if not fitting:
                return None
            block = min(fitting, key=lambda block: block.size)
            self._free.remove(block)
            return block

    def trim(self) -> None:
        """Give back what is free. Only where no copy is on its way any more."""
        while self._free:
            with self._lock:
                block = self._free.pop() if self._free else None
            if block is not None:
                block.unlock()


POOL = PinnedMemory()


class _Together:
    """Tensors side by side in a few blocks."""

    def __init__(self, expected: int, at_least: int) -> None:
        self._expected = expected
        self._at_least = at_least
        self._left = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """uint8 of shape (size,), aligned."""
        need = -(-size // _ALIGNED) * _ALIGNED
        if need > self._left.numel():
            self._left = POOL.take(max(need, self._expected, self._at_least))
        taken, self._left = self._left[:size], self._left[need:]
        self._expected = max(0, self._expected - need)
        return taken


_together: ContextVar[_Together | None] = ContextVar("together", default=None)


@contextmanager
def side_by_side(expected_bytes: int, at_least: int = _AT_LEAST) -> Iterator[None]:
    """What is taken inside lies in one block where it is no more than ``expected_bytes``, and else
    in several of ``at_least`` so many."""
    token = _together.set(_Together(expected_bytes, at_least))
    try:
        yield
    finally:
        _together.reset(token)


def pinned_like(source: Tensor) -> Tensor:
    """Contiguous host memory of the same shape and dtype, not initialised."""
    size = source.numel() * source.element_size()
    if not size:
        return torch.empty(source.shape, dtype=source.dtype, device="cpu")
    memory = (_together.get() or POOL).take(size)
    return memory.view(source.dtype).view(source.shape)
