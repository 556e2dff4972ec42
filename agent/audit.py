"""Who gave which command, and what came of it: JSON lines that are only ever appended to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

MOST_BYTES = 4 << 20
"""A file of this size is set aside for a new one."""
KEPT_FILES = 4
"""So many that were set aside are kept: at most 20 MiB in all."""


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was asked for, refused, or has come to its end."""

    time: float
    """Wall clock [s since the epoch]."""
    who: str
    verb: str
    """An action, ``shutdown``, or ``connect``."""
    result: str
    """``accepted``, ``refused``, and for what was accepted later ``done`` or ``failed``."""
    run: str = ""
    command: str = ""
    """The command's id: what ties its lines together."""
    args: dict[str, float | int | str] = {}
    why: str = ""


class AuditLog:
    """Written by the agent alone. A full disk is said in the log: commands are obeyed all the
    same, for a stop that is refused does more harm than one that is not written down."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._failed = False

    def add(self, line: AuditLine) -> None:
        """One more line, in the file when this returns."""
        try:
            self._append(msgspec.json.encode(line) + b"\n")
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.error("the audit log cannot be written: %s", error)
            self._failed = True

    def note(self, who: str, verb: str, result: str, *, command: str = "", why: str = "") -> None:
        """The same for what has no arguments, at this moment."""
        self.add(
            AuditLine(time=time.time(), who=who, verb=verb, result=result, command=command, why=why)
        )

    def givers(self, commands: Collection[str]) -> dict[str, str]:
        """Who gave these commands, as far as it is still written down."""
        lines = read_audit(self._path) if commands else ()
        return {line.command: line.who for line in lines if line.command in commands}

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.write(descriptor, line)
            is_full = os.fstat(descriptor).st_size >= self._most_bytes
        finally:
            os.close(descriptor)
        if is_full:
            self._set_aside()

    def _set_aside(self) -> None:
        older = [_aside(self._path, number) for number in range(KEPT_FILES, 0, -1)]
        for to, come_from in zip(older, [*older[1:], self._path], strict=True):
            if come_from.exists():
                os.replace(come_from, to)


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def read_audit(path: Path) -> Iterator[AuditLine]:
    """All lines that are kept, oldest first; one that was cut off by a crash is left out."""
    for file in [*(_aside(path, number) for number in range(KEPT_FILES, 0, -1)), path]:
        try:
            lines = file.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                yield msgspec.json.decode(line, type=AuditLine)
            except msgspec.DecodeError:
                continue
