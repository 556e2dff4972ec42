"""How often the kernel has killed for want of memory, where a process lives."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/vmstat")
_COUNT = "oom_kill"


class OomKills:
    """Of the group of processes that one is in, by its cgroup (v2 or v1); of the machine where
    there is no telling. Nothing here raises."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._file: Path | None = None
        self._before = 0
        self.look()

    def look(self) -> None:
        """Which group it is in now. While it lives: a dead process is in none."""
        file = _file_of(self._pid)
        if file is not None and file != self._file:
            self._file, self._before = file, _count_in(file)

    def has_grown(self) -> bool:
        """Whether there was another since it came into its group."""
        return self._file is not None and _count_in(self._file) > self._before


def _file_of(pid: int) -> Path | None:
    """The file that counts; None of a process that is no more, or about to be: one that dies gives
    its memory back first, and leaves its group for the root's next."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/cgroup").read_text(errors="replace").splitlines()
        if int(Path(f"/proc/{pid}/statm").read_text().split()[1]) == 0:
            return None
        for line in lines:
            _, kinds, path = line.split(":", 2)
            if kinds == "memory":
                place = _CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
            elif not kinds:
                place = _CGROUPS / path.lstrip("/") / "memory.events"
            else:
                continue
            if place.exists():
                return place
        return _MACHINE
    return None


def _count_in(file: Path) -> int:
    with suppress(OSError, ValueError):
        for line in file.read_text(errors="replace").splitlines():
            name, _, count = line.partition(" ")
            if name == _COUNT:
                return int(count)
    return 0
