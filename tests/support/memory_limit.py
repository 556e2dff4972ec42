"""A group of processes with a limit on their memory, made by the kernel: where we may make one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextmanager
def memory_limited_group(limit_bytes: int) -> Iterator[Path | None]:
    """Its folder, inside the group of this very process: whose number is written to its
    ``cgroup.procs`` is in it. None where this is not possible. Its members have to be gone at the
    end."""
    group = _make(limit_bytes)
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def _make(limit_bytes: int) -> Path | None:
    places = {}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kind, path = line.split(":", 2)
            places[kind] = path.lstrip("/")
    for kind, root, limit in (
        ("memory", _V1, "memory.limit_in_bytes"),
        ("", _V2, "memory.max"),
    ):
        if kind not in places:
            continue
        group = root / places[kind] / f"lossguard-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(limit_bytes))
            return group
        except OSError:
            group.rmdir()
    return None
