"""What earlier runs of this name have left on disk, and could be taken up from."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from lossguard.probes import wire
from lossguard.probes.durable import run_of_folder
from lossguard.probes.durable_files import Damaged, folder_of, read_manifest, steps_in


class Left(msgspec.Struct, frozen=True):
    """By one rank of one run. ``steps``: oldest first, unchecked."""

    run: str
    world_size: int
    rank: int
    written_s: float
    steps: list[int]
    folder: str
    """Its name; all are beside each other."""


class Candidate(msgspec.Struct, frozen=True):
    """A state that all ranks that need it can read. ``folders``: of its ranks, in their order."""

    written_s: float
    step: int
    folders: tuple[str, ...]


def left_behind(parent: Path, hello: wire.Hello) -> list[Left]:
    """By runs of this name that did not end well; one whose process is still there is none."""
    return list(_look(parent, hello))


def _look(parent: Path, hello: wire.Hello) -> Iterator[Left]:
    for folder in parent.glob("*/"):
        steps = steps_in(folder)
        for step in reversed(steps):
            try:
                about = read_manifest(folder_of(folder, step))["about"]
            except Damaged:
                continue
            if about.get("name") == hello.name and not _is_at_work(about):
                yield Left(
                    run_of_folder(folder),
                    int(about["world_size"]),
                    int(about["rank"]),
                    float(about.get("written_s", 0.0)),
                    steps,
                    folder.name,
                )
            break


def _is_at_work(about: Mapping[str, Any]) -> bool:
    """Whether another process of this machine is still training it."""
    pid = about.get("pid")
    if not isinstance(pid, int) or pid == os.getpid() or about.get("host") != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(pid).create_time() <= about.get("started_s", 0) + 1)
    except psutil.Error:
        return False


def candidates(said: Sequence[Sequence[Left]]) -> list[Candidate]:
    """By what every rank sees on its disk: what can be taken up, the newest first.

    As many ranks as before need their own parts only; other numbers of ranks need to see all.
    """
    seen = [{(left.run, left.world_size, left.rank): left for left in by} for by in said]
    found = []
    for run, size in {(run, size) for view in seen for run, size, _ in view}:
        parts = [
            view.get((run, size, rank))
            for view_rank, view in enumerate(seen)
            for rank in ([view_rank] if size == len(said) else range(size))
        ]
        there = [part for part in parts if part is not None]
        if len(there) < len(parts):
            continue
        folders = {part.rank: part.folder for part in there}
        written_s = max(part.written_s for part in there)
        names = tuple(folders[rank] for rank in range(size))
        steps = set.intersection(*(set(part.steps) for part in there))
        found += [Candidate(written_s, step, names) for step in steps]
    return sorted(found, key=lambda one: (one.written_s, one.folders, one.step), reverse=True)
