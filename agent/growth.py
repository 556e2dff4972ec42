"""When the agent has grown for no good reason.

ZeroMQ keeps the frames of a message until its last one has come, and limits neither their number
nor their sum: a client that never ends a message is not seen by the program at all. What can be
seen is that memory grows; and when a connection is cut, what it had begun to say is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

import psutil

MOST_BYTES = 512 << 20
"""By so much the agent may grow, and again after each time that this was said."""


def own_memory() -> int:
    """Resident memory of this process [bytes]."""
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Let the C library return what is free to the system; without this it stays resident."""
    with contextlib.suppress(AttributeError, OSError):  # not every C library can
        ctypes.CDLL(None).malloc_trim(0)


class Growth:
    """``is_too_much`` is to be asked now and then; it costs some 50 us."""

    def __init__(
        self, memory: Callable[[], int] = own_memory, most_bytes: int = MOST_BYTES
    ) -> None:
        self._memory = memory
        self._most_bytes = most_bytes
        self._from: int | None = None

    def is_too_much(self) -> bool:
        """Whether it has grown too far. What is there at the next look is taken as it is then."""
        if self._from is None:
            give_back()
            self._from = self._memory()
        now = self._memory()
        if now - self._from <= self._most_bytes:
            return False
        self._from = None
        return True
