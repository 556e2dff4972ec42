"""What the process table says of a training process on this host."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lossguard.agent.oom_kills import OomKills
from lossguard.agent.process_end import ProcessEnd, end_in_words, status_of_zombie
from lossguard.probes import wire

ProcessState = Literal["running", "stopped", "traced", "zombie", "gone", "elsewhere"]
"""``stopped``: by SIGSTOP or Ctrl-Z; ``traced``: halted by a debugger; ``elsewhere``: on another
host, where only its own word counts."""
_CLOCK_S = 1.0
"""What the start of a process and the wall clock of its hello may differ by [s]."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is known of the end of a process."""

    words: str
    """``killed by SIGKILL``, ``exit code 1``; empty where nobody could tell."""
    for_memory: bool
    """The kernel has killed for want of memory, in its group of processes, while it was watched."""
    rss_bytes: int
    """Its memory as it was seen last; 0: never."""


class ProcessTable:
    """One process. A few system calls a look; nothing here raises."""

    def __init__(self, hello: wire.Hello) -> None:
        self.pid = hello.pid
        self._process: psutil.Process | None = None
        self._here = hello.host == socket.gethostname()
        self._oom_kills = OomKills(hello.pid)
        self._rss = 0
        self._end = ProcessEnd(hello.pid) if self._here else ProcessEnd(-1)
        if self._here:
            with suppress(psutil.Error):
                process = psutil.Process(hello.pid)
                # One that began after the hello merely has the same number.
                if process.create_time() <= hello.started_s + _CLOCK_S:
                    self._process = process

    def state(self) -> ProcessState:
        """As of now."""
        if not self._here:
            return "elsewhere"
        if self._process is None:
            return "gone"
        try:
            status = self._process.status() if self._process.is_running() else None
        except psutil.AccessDenied:
            return "running"
        except psutil.Error:
            return "gone"
        if status == psutil.STATUS_ZOMBIE:
            return "zombie"
        if status == psutil.STATUS_TRACING_STOP:
            return "traced"
        return "gone" if status is None else self._alive(status == psutil.STATUS_STOPPED)

    def _alive(self, stopped: bool) -> ProcessState:
        self._oom_kills.look()
        with suppress(psutil.Error, AttributeError):
            assert self._process is not None
            self._rss = self._process.memory_info().rss or self._rss  # 0 while it dies
        return "stopped" if stopped else "running"

    def is_traced(self) -> bool:
        """Whether a debugger holds on to it, halted or not."""
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{self.pid}/status").read_text(errors="replace")
            for line in status.splitlines():
                if line.startswith("TracerPid:"):
                    return int(line.split()[1]) != 0
        return False

    def children(self) -> list[psutil.Process]:
        """Processes it has started, say the workers of a DataLoader."""
        if self._process is None:
            return []
        try:
            return list(self._process.children(recursive=True))
        except psutil.Error:
            return []

    def send(self, signal: int) -> bool:
        """Send a signal, to this very process or to none."""
        try:
            if self._process is None:
                return False
            self._process.send_signal(signal)
        except psutil.Error:
            return False
        return True

    def ended(self) -> Ended:
        """What is known of its end, once it is gone."""
        status = self._end.status()
        if status is None and self._process is not None:
            status = status_of_zombie(self.pid)
        words = "" if status is None else end_in_words(status)
        oom = self._oom_kills.has_grown() and words in ("", "killed by SIGKILL")
        return Ended(words, oom, self._rss)

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self._end.close()
