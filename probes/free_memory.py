"""How much host memory may still be taken: what is free, and what the container allows."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
# Of cgroup v2, and of v1: the limit, the use, and how memory.stat calls the reclaimable cache.
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_memory_bytes(cgroups: Path = _CGROUPS) -> int:
    """The smaller of the machine's available memory and what is left of the container's limit."""
    free = int(psutil.virtual_memory().available)
    for limit, used, stat, cache in _FILES:
        try:
            left = int((cgroups / limit).read_text()) - int((cgroups / used).read_text())
            counts = dict(line.split() for line in (cgroups / stat).read_text().splitlines())
            left += int(counts.get(cache, 0))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        free = min(free, max(0, left))
    return free
