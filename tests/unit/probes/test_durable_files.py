"""A folder is whole or it is not there, wherever its writing is interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from lossguard.probes.durable_files import (
    MANIFEST,
    Damaged,
    Disk,
    folder_of,
    read_file,
    read_manifest,
    remove_folder,
    steps_in,
    sweep,
    write_folder,
)


class PowerCut(BaseException):
    """Nothing runs after it, as after a kill or a pulled plug."""


class FailingDisk(Disk):
    """Ends at its ``at``-th operation, or half way through it.

    What no ``sync_folder`` has made durable by then is undone where ``forgetful``: as a disk may
    that had it only in its cache.
    """

    def __init__(self, at: int, *, half: bool, forgetful: bool) -> None:
        self._left = at
        self._half = half
        self._forgetful = forgetful
        self._renamed: list[tuple[Path, Path]] = []
        self.operations = 0

    def _operation(self) -> bool:
        """Whether this one is to be done by half."""
        self.operations += 1
        self._left -= 1
        if self._left == 0 and not self._half:
            self._cut()
        return self._left == 0

    def _cut(self) -> None:
        if self._forgetful:
            for old, new in reversed(self._renamed):
                os.rename(new, old)
        raise PowerCut

    def make_folder(self, path: Path) -> None:
        by_half = self._operation()
        super().make_folder(path)
        if by_half:
            self._cut()

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        if not self._operation():
            return super().write(path, chunks)
        content = b"".join(bytes(chunk) for chunk in chunks)
        path.write_bytes(content[: len(content) // 2])
        return self._cut()

    def rename(self, old: Path, new: Path) -> None:
        by_half = self._operation()
        super().rename(old, new)
        self._renamed.append((old, new))
        if by_half:
            self._cut()

    def sync_folder(self, path: Path) -> None:
        by_half = self._operation()
        self._renamed = [(old, new) for old, new in self._renamed if new.parent != path]
        super().sync_folder(path)
        if by_half:
            self._cut()

    def remove(self, path: Path) -> None:
        if not self._operation():
            return super().remove(path)
        next(iter(path.iterdir())).unlink()
        return self._cut()


def content_of(step: int) -> dict[str, list[bytes | memoryview]]:
    """Two files that say which step they are of."""
    return {"tree": [f"{step}".encode()], "blobs": [b"x" * 3_000_000, memoryview(b"y" * step)]}


def read(parent: Path, step: int) -> None:
    """Check every byte."""
    folder = folder_of(parent, step)
    manifest = read_manifest(folder)
    assert manifest["step"] == step
    for name, chunks in content_of(step).items():
        assert read_file(folder, name, manifest) == b"".join(bytes(c) for c in chunks)


def write(parent: Path, step: int, disk: Disk | None = None) -> None:
    write_folder(parent, step, content_of(step), {"name": "run"}, disk)


CUTS = [
    (at, half, forgetful)
    for at in range(1, 9)
    for half in (False, True)
    for forgetful in (False, True)
]
"""Before or during each operation of a writer, with a disk that forgets or does not."""


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    """By this user alone."""
    parent = tmp_path / "a" / "b"
    write(parent, 7)
    write(parent, 12)
    assert steps_in(parent) == [7, 12]
    read(parent, 7)
    read(parent, 12)
    assert read_manifest(folder_of(parent, 7))["about"] == {"name": "run"}
    modes = {oct(p.stat().st_mode & 0o777) for p in parent.rglob("*") if p.is_file()}
    assert modes == {"0o600"}
    assert oct(parent.stat().st_mode & 0o777) == "0o700"


@pytest.mark.parametrize(("at", "half", "forgetful"), CUTS)
def test_a_write_that_is_cut_off_anywhere_harms_nothing(
    tmp_path: Path, at: int, half: bool, forgetful: bool
) -> None:
    """What is listed is whole, what was there stays, and the next writer goes on."""
    write(tmp_path, 1)
    disk = FailingDisk(at, half=half, forgetful=forgetful)
    try:
        write(tmp_path, 2, disk)
        assert disk.operations < at, "every operation was visited"
    except PowerCut:
        pass
    assert steps_in(tmp_path)[0] == 1
    for step in steps_in(tmp_path):
        read(tmp_path, step)
    sweep(tmp_path)
    assert not list(tmp_path.glob(".*"))
    if 2 not in steps_in(tmp_path):
        write(tmp_path, 2)
    read(tmp_path, 2)


def test_the_cuts_visit_every_operation(tmp_path: Path) -> None:
    """The healthy twin: a write has as many operations as the test above cuts at, less one."""
    tmp_path.rmdir()
    disk = FailingDisk(0, half=False, forgetful=False)
    write(tmp_path, 2, disk)
    assert disk.operations == 8


@pytest.mark.parametrize(("at", "half", "forgetful"), CUTS)
def test_a_removal_that_is_cut_off_leaves_no_half_folder_in_sight(
    tmp_path: Path, at: int, half: bool, forgetful: bool
) -> None:
    """It is there whole, or not at all."""
    write(tmp_path, 1)
    write(tmp_path, 2)
    disk = FailingDisk(at, half=half, forgetful=forgetful)
    try:
        remove_folder(tmp_path, 1, disk)
        assert disk.operations < at
    except PowerCut:
        pass
    for step in steps_in(tmp_path):
        read(tmp_path, step)
    assert 2 in steps_in(tmp_path)


@pytest.mark.parametrize("name", ["tree", "blobs", MANIFEST])
@pytest.mark.parametrize("harm", ["flipped", "truncated", "emptied", "missing", "longer"])
def test_damage_is_noticed(tmp_path: Path, name: str, harm: str) -> None:
    """One bit is enough."""
    write(tmp_path, 5)
    path = folder_of(tmp_path, 5) / name
    content = bytearray(path.read_bytes())
    if harm == "flipped":
        content[len(content) // 2] ^= 1
    path.unlink()
    if harm != "missing":
        harmed = {"truncated": content[:-1], "emptied": bytearray(), "longer": content + b"\n"}
        path.write_bytes(harmed.get(harm, content))
    with pytest.raises(Damaged, match=name):
        read(tmp_path, 5)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """The error is the disk's own, and the half written folder is gone."""

    class Full(Disk):
        def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    write(tmp_path, 1)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2, Full())
    assert sorted(os.listdir(tmp_path)) == ["step-000000000000001"]


def test_a_folder_is_never_written_over(tmp_path: Path) -> None:
    """The second writer of a step is refused; the first one's stays."""
    write(tmp_path, 1)
    with pytest.raises(OSError, match=r"not empty|exists"):
        write(tmp_path, 1)
    read(tmp_path, 1)
    assert len(os.listdir(tmp_path)) == 1


def test_other_things_in_the_folder_are_no_steps(tmp_path: Path) -> None:
    """Names are matched whole."""
    for name in ("step-1", "step-0000000000000001", "x-step-000000000000001", "notes"):
        (tmp_path / name).mkdir()
    assert steps_in(tmp_path) == []
    shutil.rmtree(tmp_path)
    assert steps_in(tmp_path) == []
