"""A SQLite file that is written a few times a second, and begun anew where it is gone or broken.

While the disk takes nothing, writes wait in memory, within bounds; nothing here raises for it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lossguard.agent.database import damaged_files, is_damage, open_database, set_aside
from lossguard.errors import ConfigError
from lossguard.failpoints import reach

log = logging.getLogger(__name__)

MAX_WAITING = 100_000
"""Rows of one kind that wait in memory; the oldest go first."""
_FREED_AT_ONCE = 256
"""Pages that are given back to the disk in one go: a few milliseconds."""
_FREE_PAGES = 1024
"""So many are kept for what is written next."""


class WrittenFile:
    """The database and what waits for it. Not thread-safe: the agent's loop owns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_database(path)
        self._file = path.stat().st_ino
        self._begun_anew: Callable[[], None] = lambda: None
        self._no_file_said = False
        self._failing = False
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque(maxlen=MAX_WAITING)

    @property
    def is_failing(self) -> bool:
        """Whether the disk did not take what was last written."""
        return self._failing

    def close(self) -> None:
        """Write what is waiting and let go. Idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self.commit()
        self._db.close()

    def when_begun_anew(self, begun_anew: Callable[[], None]) -> None:
        """Call this when a new file had to be begun: it lacks all that was known."""
        self._begun_anew = begun_anew

    def troubles(self) -> list[str]:
        """What is wrong with what is kept, for people to read; empty where nothing is."""
        found = []
        if self._failing:
            found.append(f"{self.path} cannot be written; what is new waits in memory")
        if aside := damaged_files(self.path):
            names = ", ".join(file.name for file in aside)
            found.append(f"a damaged database was set aside in {self.path.parent}: {names}")
        return found

    def num_bytes(self) -> int:
        """What the database holds [B], without the room that is free in it."""
        try:
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (size,) = self._db.execute("PRAGMA page_size").fetchone()
        except sqlite3.Error:
            return 0
        return (int(pages) - int(free)) * int(size)

    def _do(self, statement: str, values: tuple[Any, ...]) -> None:
        self._waiting.append((statement, values))

    def commit(self) -> bool:
        """Make everything so far durable; False when that has to wait."""
        if not self._waits:
            return True
        try:
            with self._db:
                self._write_all()
                reach("store.in_transaction")
            reach("store.committed")
        except Exception as error:
            if is_damage(error):
                self._begin_anew(str(error))
                return False
            if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                if not self._failing:
                    log.error("cannot write to %s (%s); it is tried again, and what cannot be "
                              "written waits in memory", self.path, error)  # fmt: skip
                self._failing = True
                return False
            # Not the disk but the data: it would stand in the way of all the rest for ever.
            log.exception("dropped what cannot be written to %s", self.path)
        if self._failing:
            log.warning("%s is written to again", self.path)
            self._failing = False
        self._forget_written()
        return True

    @property
    def _waits(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._waiting)

    def _write_all(self) -> None:
        for statement, values in self._waiting:
            self._db.execute(statement, values)

    def _forget_written(self) -> None:
        self._waiting.clear()

    def _give_back(self) -> None:
        """What was deleted makes the file smaller, a little at a time."""
        with contextlib.suppress(sqlite3.Error):
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if free > _FREE_PAGES:
                self._db.execute(f"PRAGMA incremental_vacuum({_FREED_AT_ONCE})").fetchall()

    def _look_for_the_file(self) -> None:
        try:
            is_there = self.path.stat().st_ino == self._file
        except OSError:
            is_there = False
        if not is_there:
            self._begin_anew("it was deleted or replaced")

    def _begin_anew(self, why: str) -> None:
        """Another file, into which everybody writes again what is known in memory."""
        if not self._no_file_said:
            log.error("the database %s is of no use any more (%s); a new one begins",
                      self.path, why)  # fmt: skip
        try:
            self._db.close()
            if self.path.exists() and self.path.stat().st_ino == self._file:
                set_aside(self.path, why)
            self._db = open_database(self.path)
            self._file = self.path.stat().st_ino
        except (ConfigError, OSError, sqlite3.Error) as error:
            if not self._no_file_said:
                log.error("%s; what is new waits in memory", error)
            self._no_file_said = self._failing = True
            self._file = -1
            self._db = sqlite3.connect(":memory:")
            return
        self._no_file_said = False
        self._begun_anew()
