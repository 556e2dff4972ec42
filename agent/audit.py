"""Who gave which command, and what came of it: JSON lines that are only ever appended to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from lossguard.agent.refusals import Refusals

log = logging.getLogger(__name__)

MOST_BYTES = 4 << 20
"""A file of this size is set aside for a new one."""
KEPT_FILES = 4
"""So many that were set aside are kept: at most 20 MiB in all."""
_MOST_REFUSED_BYTES = 1024
"""A longer line of what was refused is cut."""


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was asked for, refused, or has come to its end."""

    time: float
    """Wall clock [s since the epoch]."""
    who: str
    verb: str
    """An action, ``shutdown``, or ``connect``."""
    result: str
    """``accepted``, ``refused``, and for what was accepted later ``done`` or ``failed``, or
    ``unknown`` where nobody can say any more."""
    run: str = ""
    command: str = ""
    """The command's id: what ties its lines together."""
    args: dict[str, float | int | str] = {}
    why: str = ""
    left_out: int = 0
    """This line stands for so many that are not written down one by one."""


class AuditLog:
    """Written by the agent alone. A full disk is said in the log: commands are obeyed all the
    same, for a stop that is refused does more harm than one that is not written down."""

    def __init__(
        self,
        path: Path,
        *,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._clock = clock
        self._refusals = Refusals()
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

    def refuse(self, line: AuditLine, account: str) -> bool:
        """A line of something that was refused to this account; False where there have been so
        many of its kind that it is counted only."""
        self.tick()
        if not self._refusals.is_one_by_one((account, line.verb), self._clock()):
            return False
        if len(msgspec.json.encode(line)) > _MOST_REFUSED_BYTES:
            line = msgspec.structs.replace(line, run=line.run[:40], args={}, why=line.why[:80])
        self.add(line)
        return True

    def tick(self) -> None:
        """A few times a second: say how many refusals are not written down one by one."""
        self._count(is_end=False)

    def close(self) -> None:
        """Nothing is left uncounted. Idempotent."""
        self._count(is_end=True)

    def _count(self, *, is_end: bool) -> None:
        for (account, verb), number in self._refusals.counts(self._clock(), is_end=is_end):
            why = f"{number} more of these, not written down one by one"
            line = AuditLine(
                time=time.time(), who=account, verb=verb, result="refused", why=why, left_out=number
            )
            self.add(line)

    def commands(self) -> dict[str, AuditLine]:
        """The last line of every command that was accepted, as far as it is still written down."""
        lines = read_audit(self._path)
        return {line.command: line for line in lines if line.command and line.result != "refused"}

    def givers(self, commands: Collection[str]) -> dict[str, str]:
        """Who gave these commands, as far as it is still written down."""
        known = self.commands() if commands else {}
        return {command: known[command].who for command in commands if command in known}

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
