"""What earlier runs of this name have left on disk, and could be taken up from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from lossguard.probes import wire
from lossguard.probes.at_work import is_at_work
from lossguard.probes.durable import run_of_folder
from lossguard.probes.durable_files import newest_manifest, steps_in

log = logging.getLogger("lossguard")


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
        try:
            steps = steps_in(folder)
            about = newest_manifest(folder).get("about", {})
            if about.get("name") == hello.name and not is_at_work(about):
                yield Left(
                    run_of_folder(folder),
                    int(about["world_size"]),
                    int(about["rank"]),
                    float(about.get("written_s", 0.0)),
                    steps,
                    folder.name,
                )
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.debug("%s is no folder of snapshots: %r", folder, error)


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
