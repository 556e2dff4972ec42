"""Folders that are either whole or not there: written once, checked by SHA-256, never changed.

A folder is written under another name, every file of it synced, then its manifest, then the
folder; renamed; and the parent synced. Whatever is interrupted, and wherever, leaves what was
there before and at most a folder whose name begins with a dot, which the next writer removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_FORMAT = 1
_CHUNK = 1 << 20
_FREE = 4
"""Free space asked for, in sizes of what is to be written."""
_NAME = re.compile(r"step-(\d{15})")


class Damaged(Exception):
    """A folder that is not what was written: the file, and what is wrong with it."""


class Disk:
    """The few things that are done to a disk; tests stand in for it to fail at each of them."""

    def make_folder(self, path: Path) -> None:
        """A folder of this user alone, with its parents."""
        path.mkdir(mode=0o700, parents=True, exist_ok=False)

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        """A new file of this user alone, on the disk when this returns."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                while view:
                    view = view[os.write(descriptor, view[:_CHUNK]) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Atomically; OSError where ``new`` is there and not empty."""
        os.rename(old, new)

    def sync_folder(self, path: Path) -> None:
        """Its entries are on the disk when this returns."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """A folder and all in it."""
        shutil.rmtree(path)


def write_folder(
    parent: Path,
    step: int,
    files: Mapping[str, Iterable[bytes | memoryview]],
    about: Mapping[str, Any],
    disk: Disk | None = None,
) -> Path:
    """Write ``files`` as the folder of ``step``; its path. Raises OSError, and leaves nothing."""
    disk = disk or Disk()
    if not parent.exists():
        disk.make_folder(parent)
    whole = parent / f"step-{step:015d}"
    half = parent / f".writing-{whole.name}-{os.urandom(4).hex()}"
    disk.make_folder(half)
    try:
        entries = {}
        for name, chunks in files.items():
            digest = _Digest()
            disk.write(half / name, digest.through(chunks))
            entries[name] = {"bytes": digest.size, "sha256": digest.sha256()}
        body = {"format": _FORMAT, "step": step, "files": entries, "about": dict(about)}
        disk.write(half / MANIFEST, [_sealed(body)])
        disk.sync_folder(half)
        disk.rename(half, whole)
    except Exception:
        shutil.rmtree(half, ignore_errors=True)
        raise
    disk.sync_folder(parent)
    return whole


def steps_in(parent: Path) -> list[int]:
    """Steps that have a folder, oldest first. Says nothing about what is in them."""
    try:
        names = os.listdir(parent)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def folder_of(parent: Path, step: int) -> Path:
    """Where the folder of ``step`` is, or would be."""
    return parent / f"step-{step:015d}"


def require_space(place: Path, size: int) -> None:
    """Raises OSError where less than four times ``size`` [bytes] are free on the disk: a full one
    is worse than nothing written."""
    free = shutil.disk_usage(place).free
    if free < _FREE * size:
        raise OSError(f"{free} bytes are free, and {_FREE} times {size} are wanted")


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was written beside the files; raises Damaged."""
    try:
        raw = (folder / MANIFEST).read_bytes()
        seal, _, body = raw.partition(b"\n")
        if seal.decode() != hashlib.sha256(body).hexdigest():
            raise Damaged(f"{folder / MANIFEST}: its checksum is wrong")
        manifest: dict[str, Any] = json.loads(body)
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder / MANIFEST}: {error}") from error
    if manifest.get("format") != _FORMAT:
        raise Damaged(f"{folder / MANIFEST}: format {manifest.get('format')}, not {_FORMAT}")
    return manifest


def newest_manifest(parent: Path) -> dict[str, Any]:
    """Of the newest step there whose manifest is whole; empty where there is none."""
    for step in reversed(steps_in(parent)):
        with suppress(Damaged):
            return read_manifest(folder_of(parent, step))
    return {}


def read_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytearray:
    """A file as it was written; raises Damaged where it is missing, torn or has one bit changed."""
    path = folder / name
    try:
        expected = manifest["files"][name]
        with path.open("rb") as file:
            content = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(content)
    except (OSError, KeyError) as error:
        raise Damaged(f"{path}: {error}") from error
    if len(content) != expected["bytes"]:
        raise Damaged(f"{path}: {len(content)} bytes where {expected['bytes']} were written")
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise Damaged(f"{path}: its checksum is wrong")
    return content


def remove_folder(parent: Path, step: int, disk: Disk | None = None) -> None:
    """Remove the folder of ``step``: at once for every reader, in pieces on the disk."""
    disk = disk or Disk()
    going = parent / f".removing-step-{step:015d}-{os.urandom(4).hex()}"
    disk.rename(folder_of(parent, step), going)
    disk.sync_folder(parent)
    disk.remove(going)


def sweep(parent: Path) -> int:
    """Remove what interrupted writers left; how much that was. Only with one writer at work."""
    left = [*parent.glob(".writing-*"), *parent.glob(".removing-*")]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


class _Digest:
    """Counts and hashes chunks on their way."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def through(self, chunks: Iterable[bytes | memoryview]) -> Iterable[bytes | memoryview]:
        for chunk in chunks:
            self._hash.update(chunk)
            self.size += memoryview(chunk).nbytes
            yield chunk

    def sha256(self) -> str:
        return self._hash.hexdigest()


def _sealed(body: Mapping[str, Any]) -> bytes:
    """The manifest, its own checksum in the first line."""
    raw = json.dumps(body, indent=1, allow_nan=False).encode()
    return hashlib.sha256(raw).hexdigest().encode() + b"\n" + raw
