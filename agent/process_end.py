"""How a process ended that is not our child: by its pidfd, where the kernel tells (Linux 6.15)."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from contextlib import suppress
from pathlib import Path

_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
"""``_IOWR(0xFF, 11, struct pidfd_info)`` of linux/pidfd.h, for its first 64 bytes."""
_WANT_EXIT = 1 << 3
_EXIT_CODE_AT = 60
_EXIT_CODE_FIELD = 52
"""Of /proc/PID/stat, counted from one (proc_pid_stat(5)). 0 also where we may not know."""


def end_in_words(status: int) -> str:
    """A wait status as people say it: ``exit code 3``, ``killed by SIGKILL``."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"killed by {name}"
    return f"exit code {os.WEXITSTATUS(status)}"


def status_of_zombie(pid: int) -> int | None:
    """The wait status of a process that has ended and whose parent has not asked yet; None where
    nobody says (it takes the right to trace the process)."""
    with suppress(OSError, ValueError, IndexError):
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
        fields = after_name.split()
        if fields[0] == "Z":
            return int(fields[_EXIT_CODE_FIELD - 3]) or None
    return None


class ProcessEnd:
    """Holds on to a process, so that its number cannot come to mean another one."""

    def __init__(self, pid: int) -> None:
        self._fd = -1
        with suppress(OSError, AttributeError):
            self._fd = os.pidfd_open(pid)

    def status(self) -> int | None:
        """The wait status of a process that has been reaped; None where nobody can tell (yet)."""
        if self._fd < 0:
            return None
        info = bytearray(64)
        struct.pack_into("=Q", info, 0, _WANT_EXIT)
        try:
            fcntl.ioctl(self._fd, _GET_INFO, info)
        except OSError:  # an older kernel, or it has not ended
            return None
        (given,) = struct.unpack_from("=Q", info, 0)
        if not given & _WANT_EXIT:
            return None
        (status,) = struct.unpack_from("=i", info, _EXIT_CODE_AT)
        return int(status)

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
