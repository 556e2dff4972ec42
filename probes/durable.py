"""Snapshots that outlive the process: written to disk beside the training, checked when read."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lossguard.home import find_home
from lossguard.probes import wire
from lossguard.probes.at_work import may_be_at_work
from lossguard.probes.durable_files import (
    Damaged,
    Disk,
    folder_of,
    newest_manifest,
    read_file,
    read_manifest,
    remove_folder,
    require_space,
    steps_in,
    sweep,
    write_folder,
)
from lossguard.probes.graph_capture import leave_captures_alone
from lossguard.probes.plain_state import Blob, NotPlain, NotReadable, Tree, put_together, take_apart
from lossguard.probes.snapshots import Snapshot

_ALIGNED = 64
"""Blobs begin at multiples of it, so that tensors in them are aligned."""
Piece = tuple[str, str, Tree, list[int]]
"""Part, name in it (of ``extra``), tree, sizes of its blobs [bytes]."""
Files = dict[str, Iterable[bytes | memoryview]]
_NEEDED = ("model", "optimizers")
_OTHER_RUNS = 3
"""So many other runs keep theirs: those that ended before they were done."""
_LEAST_KEPT = 2
_OTHER_BEST = 16
"""So many other runs keep their best state."""
_RANK = re.compile(r"\.rank\d+\Z")


class Durable(NamedTuple):
    """A snapshot that was read back. ``missing``: parts that could not be written."""

    step: int
    kept: dict[str, Any]
    learning_rates: tuple[float | None, ...]
    missing: tuple[str, ...]
    about: Mapping[str, Any]


class DurableTier:
    """At most ``keep`` snapshots in ``folder``, and never fewer than the ``least`` newest ones.

    ``offer`` costs microseconds: a thread of its own writes, one snapshot at a time and at most
    one in ``interval_s``. Nothing here raises into the training: what fails is told to ``report``,
    once a kind, and the next snapshot is tried again.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, str | int],
        report: Callable[[str], None],
        *,
        keep: int = 3,
        interval_s: float = 300.0,
        disk: Disk | None = None,
        among_runs: bool = False,
        least: int = _LEAST_KEPT,
        other_runs: int = _OTHER_RUNS,
    ) -> None:
        self._folder = folder
        self._among_runs = among_runs
        self._about = dict(about)
        self._report = report
        self._keep = max(least, keep)
        self._other_runs = other_runs
        self._interval_s = interval_s
        self._disk = disk or Disk()
        self._writer: threading.Thread | None = None
        self._last_s = -float("inf")
        self._reported: set[str] = set()
        self._swept = False
        self.predecessors: tuple[str, ...] = ()
        """Folders beside it, of the processes that this run goes on from: they go with it."""
        self.written: tuple[wire.Held, ...] = ()
        """What this process has written and is still there, oldest first."""
        self.begun_at = 0
        """The step of theirs that it began with: on disk its own steps count on from there."""

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self._folder

    @property
    def steps(self) -> list[int]:
        """Steps on disk, oldest first, unchecked."""
        return steps_in(self._folder)

    @property
    def _is_ours(self) -> bool:
        """Whether what is there is of this process, or of one that it goes on from: another may
        have had the same run before (LOSSGUARD_RUN)."""
        return self._swept or self._folder.name in self.predecessors

    @property
    def _is_writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def is_idle(self) -> bool:
        """Whether an ``offer`` would be taken now."""
        return not self._is_writing and time.monotonic() - self._last_s >= self._interval_s

    def offer(self, snapshot: Snapshot, *, now: bool = False) -> bool:
        """Write ``snapshot`` soon; False where one is being written, or was a short while ago.

        ``now`` does not ask for how long ago.
        """
        if self._is_writing or not (now or self.is_idle()):
            return False
        self._last_s = time.monotonic()
        self._writer = threading.Thread(
            target=self._write, args=(snapshot,), name="lossguard-snapshots", daemon=True
        )
        self._writer.start()
        return True

    def go_on_from(self, predecessors: tuple[str, ...], step: int) -> None:
        """This run goes on from ``step`` of those that wrote these folders, beside its own."""
        self.predecessors = predecessors
        self.begun_at = step
        self.forget_after(0)

    def settle(self, patience_s: float | None = None) -> None:
        """Wait for what is being written."""
        if self._writer is not None:
            self._writer.join(patience_s)

    def newest_before(self, step: int) -> Durable | None:
        """The newest whole snapshot of a step at or before ``step``. Reads and checks all of it;
        those that are damaged are reported and passed over."""
        at = self.begun_at
        steps = self.steps if self._is_ours else []
        for there in reversed([s for s in steps if at <= s <= at + step]):
            try:
                return read_snapshot(self._folder, there)._replace(step=there - at)
            except Damaged as error:
                self._say("damaged", f"a snapshot on disk is damaged and is passed over: {error}")
        return None

    def forget_after(self, step: int) -> None:
        """Remove snapshots of later steps: a rollback has undone them."""
        steps = self.steps if self._is_ours else []
        for later in [s for s in steps if s > self.begun_at + step]:
            try:
                remove_folder(self._folder, later, self._disk)
            except OSError as error:
                self._say("remove", f"the snapshot of step {later} could not be removed: {error}")

        self.written = tuple(one for one in self.written if one.step <= step)

    def remove(self) -> None:
        """All that is ours. What is being written just now stays for the next run to remove."""
        if not self._is_writing:
            ours = [self._folder.name] if self._is_ours else []
            for name in (*ours, *self.predecessors):
                shutil.rmtree(self._folder.parent / name, ignore_errors=True)

    def _write(self, snapshot: Snapshot) -> None:
        leave_captures_alone()
        try:
            if not self._swept:
                sweep(self._folder)
                if not self._is_ours:
                    _set_aside(self._folder, self._disk)
                self._swept = True
                if self._among_runs:
                    _forget_old_runs(self._folder, self._other_runs)
            if snapshot.ready is not None:
                snapshot.ready.synchronize()
            self._write_whole(snapshot)
            others = [s for s in self.steps if s != self.begun_at + snapshot.step]
            for old in others[: len(others) + 1 - self._keep]:
                remove_folder(self._folder, old, self._disk)
            new = wire.Held(snapshot.step, snapshot.taken_s, snapshot.bytes, on_disk=True)
            there = {s - self.begun_at for s in self.steps}
            before = (one for one in self.written if one.step in there - {new.step})
            self.written = (*before, new)
        except Exception as error:
            text = f"the snapshot of step {snapshot.step} was not written to {self._folder}"
            self._say(type(error).__name__, f"{text}: {error}")

    def _write_whole(self, snapshot: Snapshot) -> None:
        require_space(_existing(self._folder), snapshot.bytes)
        files, missing = files_of(snapshot.kept)
        about = {
            **self._about,
            "learning_rates": list(snapshot.learning_rates),
            "missing": missing,
            "predecessors": list(self.predecessors),
            "written_s": time.time(),
        }
        write_folder(self._folder, self.begun_at + snapshot.step, files, about, self._disk)

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._report(text)


def read_snapshot(folder: Path, step: int) -> Durable:
    """The snapshot of ``step``, every byte checked. Raises Damaged."""
    where = folder_of(folder, step)
    manifest = read_manifest(where)
    raw = read_file(where, "tree", manifest)
    blobs = read_file(where, "blobs", manifest)
    try:
        kept = _put_together(msgspec.msgpack.decode(raw), memoryview(blobs))
        about = manifest["about"]
        rates, missing = tuple(about["learning_rates"]), tuple(about["missing"])
    except (ValueError, TypeError, KeyError, NotReadable) as error:
        raise Damaged(f"{where}: {error}") from error
    return Durable(step, kept, rates, missing, about)


def files_of(kept: Mapping[str, Any]) -> tuple[Files, list[str]]:
    """A captured state as the files of a folder, for ``write_folder``, and the names of what is not
    plain. Raises NotPlain."""
    pieces, blobs, missing = _taken_apart(kept)
    return {"tree": [msgspec.msgpack.encode(pieces)], "blobs": _padded(blobs)}, missing


def _taken_apart(kept: Mapping[str, Any]) -> tuple[list[Piece], list[Blob], list[str]]:
    """The pieces of a captured state, their blobs in one row, and the names of what is not plain.

    Raises NotPlain where that is the model or an optimizer: the rest alone is of no use.
    """
    pieces: list[Piece] = []
    blobs: list[Blob] = []
    missing: list[str] = []
    for part, name, value in _pieces_of(kept):
        try:
            tree, found = take_apart(value, f"{part}.{name}" if name else part)
        except NotPlain as error:
            if part in _NEEDED:
                raise
            missing.append(str(error))
            continue
        pieces.append((part, name, tree, [blob.nbytes for blob in found]))
        blobs += found
    return pieces, blobs, missing


def _pieces_of(kept: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Each part; of ``extra`` each thing, for one that is not plain costs the others nothing."""
    for part, value in kept.items():
        if part == "extra":
            yield from ((part, name, thing) for name, thing in value.items())
        else:
            yield part, "", value


def _put_together(pieces: Sequence[Piece], blobs: memoryview) -> dict[str, Any]:
    """The other way round."""
    kept: dict[str, Any] = {"extra": {}}
    for part, name, tree, sizes in pieces:
        here = []
        for size in sizes:
            here.append(blobs[:size])
            blobs = blobs[size + -size % _ALIGNED :]
        value = put_together(tree, here)
        if part == "extra":
            kept["extra"][name] = value
        else:
            kept[part] = value
    return kept


def _padded(blobs: Sequence[Blob]) -> Iterator[bytes | memoryview]:
    for blob in blobs:
        yield blob
        yield b"\0" * (-blob.nbytes % _ALIGNED)


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(there for there in (path, *path.parents) if there.exists())


def _set_aside(folder: Path, disk: Disk) -> None:
    """What another process has left there: a run of its own from now on."""
    if steps_in(folder):
        when = int(folder.stat().st_mtime * 1000)
        run, rank = run_of_folder(folder), folder.name[len(run_of_folder(folder)) :]
        disk.rename(folder, folder.parent / f"{run}.before-{when:x}{rank}")


def _forget_old_runs(folder: Path, most: int) -> None:
    """Remove the snapshots of all but the newest few other runs: disks are finite.

    Only folders that hold snapshots and nothing else, of runs that nobody trains any more.
    """
    others: dict[str, list[Path]] = {}
    for path in folder.parent.glob("*/"):
        if run_of_folder(path) != run_of_folder(folder) and _is_of_a_run(path):
            others.setdefault(run_of_folder(path), []).append(path)
    newest = {run: max(map(_changed_s, paths)) for run, paths in others.items()}
    for run in sorted(newest, key=newest.__getitem__)[:-most]:
        abouts = [newest_manifest(path).get("about", {}) for path in others[run]]
        if not any(may_be_at_work(about) for about in abouts):
            for path in others[run]:
                shutil.rmtree(path, ignore_errors=True)


def _changed_s(path: Path) -> float:
    """0 of a folder that another rank has removed meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def run_of_folder(folder: Path) -> str:
    """The run that a folder of snapshots is of: its ranks have one each."""
    return _RANK.sub("", folder.name)


def _is_of_a_run(path: Path) -> bool:
    steps = {folder_of(path, step).name for step in steps_in(path)}
    return bool(steps) and not path.is_symlink() and set(os.listdir(path)) == steps


def tier_of_run(hello: wire.Hello, report: Callable[[str], None]) -> DurableTier:
    """Where a run's snapshots belong, by the home of this user. Makes nothing yet."""
    folder = find_home().state / "snapshots" / _folder_name(hello)
    return DurableTier(folder, _about(hello), report, among_runs=True)


def best_tier_of_run(hello: wire.Hello, report: Callable[[str], None]) -> DurableTier:
    """Where the state with the best validation loss belongs: one of each run, and it stays when
    the run has ended."""
    return DurableTier(
        find_home().state / "best" / _folder_name(hello),
        _about(hello),
        report,
        keep=1,
        least=1,
        among_runs=True,
        other_runs=_OTHER_BEST,
    )


def _folder_name(hello: wire.Hello) -> str:
    return f"{hello.run}.rank{hello.rank}" if hello.world_size > 1 else hello.run


def _about(hello: wire.Hello) -> dict[str, str | int]:
    return {
        "run": hello.run,
        "name": hello.name,
        "rank": hello.rank,
        "world_size": hello.world_size,
        "pid": hello.pid,
        "host": hello.host,
        "started_s": int(hello.started_s),
    }
