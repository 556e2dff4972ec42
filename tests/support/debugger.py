"""What gdb does when it attaches: all threads of a process of ours are halted, and go on later."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ATTACH, _DETACH = 16, 17
_ALL_THREADS = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@contextmanager
def debugger_on(pid: int) -> Iterator[None]:
    """``pid`` is halted meanwhile. From one thread only, as ptrace wants it. Raises OSError."""
    threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    held: list[int] = []
    try:
        for thread in threads:
            _ptrace(_ATTACH, thread)
            os.waitpid(thread, _ALL_THREADS)
            held.append(thread)
        yield
    finally:
        for thread in held:
            _ptrace(_DETACH, thread)


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
