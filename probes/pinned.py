"""Page-locked host memory: what a GPU can copy into while the host goes on.

Not from torch's own store of it. That rounds every tensor up to a power of two and never gives
anything back; and where a kernel has failed (a device-side assert) it ends the process by SIGABRT
when such memory is let go, in place of the script's own error.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_ALIGNED = 256
"""Tensors begin at multiples of it [bytes], as a GPU's own do."""
_AT_LEAST = 1 << 20
_PORTABLE = 1
"""Locked for the contexts of all devices."""
_FITS = 1.5
"""A block that is free is taken for what needs at least two thirds of it."""


class _Block:
    """Locked memory. Forked children do not get it: what a device writes must not be copied."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_DONTFORK)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        code = int(torch.cuda.cudart().cudaHostRegister(self.address, self.size, _PORTABLE))
        if code:
            raise MemoryError(f"{self.size} bytes could not be page-locked (CUDA error {code})")

    def unlock(self) -> None:
        """Nothing may be on its way to or from it. Says nothing where the device is lost."""
        torch.cuda.cudart().cudaHostUnregister(self.address)


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

        Raises MemoryError where no more can be locked. New memory costs a system call a page,
        once.
        """
        block = self._taken(size) or _Block(size)
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
        with self._lock:
            free, self._free[:] = list(self._free), []
        for block in free:
            block.unlock()


POOL = PinnedMemory()


class _Together:
    """Tensors side by side in a few blocks."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._left = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """uint8 of shape (size,), aligned."""
        need = -(-size // _ALIGNED) * _ALIGNED
        if need > self._left.numel():
            self._left = POOL.take(max(need, self._expected, _AT_LEAST))
        taken, self._left = self._left[:size], self._left[need:]
        self._expected = max(0, self._expected - need)
        return taken


_together: ContextVar[_Together | None] = ContextVar("together", default=None)


@contextmanager
def side_by_side(expected_bytes: int) -> Iterator[None]:
    """What is taken inside lies in one block where it is no more than ``expected_bytes``."""
    token = _together.set(_Together(expected_bytes))
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
