"""What is to be sent, on disk before it is tried, and how far each message has come.

One SQLite file, one connection, owned by the thread that sends. A message is an intent until
Slack's answer is written down: who is killed between the two sends it once more and misses none.
While the disk takes nothing all of it stays in memory and goes out all the same.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from lossguard.agent.alerts.case_file import CaseFile
from lossguard.agent.alerts.rendering import Edit, Outgoing, Post, Whisper
from lossguard.agent.database import Schema, open_database

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY, body BLOB NOT NULL, made REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS addresses (
    address TEXT PRIMARY KEY, channel TEXT NOT NULL, ts TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
"""
_SCHEMA = Schema(version=1, tables=_TABLES)
_MOST_WAITING = 1000
_MOST_ADDRESSES = 5000
_pack = msgspec.msgpack.encode


class Place(msgspec.Struct, frozen=True):
    """Where a message stands in Slack."""

    channel: str
    ts: str


class Waiting(msgspec.Struct, frozen=True):
    """An intent."""

    id: int
    what: Outgoing
    made: float
    """Wall clock [s since the epoch]."""


class Journal:
    """Not thread-safe: the thread that opens it owns it. Raises ConfigError, as ``open_database``
    does."""

    def __init__(self, path: Path, now: float) -> None:
        self.path = path
        self._db = open_database(path, _SCHEMA)
        self._unwritten: deque[tuple[str, tuple[Any, ...]]] = deque(maxlen=20 * _MOST_WAITING)
        self._failing = False
        self.waiting = {row.id: row for row in self._load_waiting()}
        """By id, oldest first."""
        self.places = {
            address: Place(channel, ts)
            for address, channel, ts in self._db.execute(
                "SELECT address, channel, ts FROM addresses"
            )
        }
        self._next_id = max(self.waiting, default=0) + 1
        self._saved = b""
        self.case_file = self._load_case_file(now)

    def _load_waiting(self) -> list[Waiting]:
        found = []
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Outgoing)
        for number, body, made in self._db.execute("SELECT id, body, made FROM outbox ORDER BY id"):
            try:
                found.append(Waiting(number, decoder.decode(body), made))
            except msgspec.DecodeError as error:
                log.error(
                    "message %d in %s makes no sense (%s); left out", number, self.path, error
                )
        return found

    def _load_case_file(self, now: float) -> CaseFile:
        row = self._db.execute("SELECT body FROM memory WHERE key = 'cases'").fetchone()
        if row is not None:
            try:
                return msgspec.msgpack.decode(row[0], type=CaseFile)
            except msgspec.DecodeError as error:
                log.error("what was told of before in %s makes no sense (%s)", self.path, error)
        return CaseFile(since=now)

    def intend(self, messages: list[Outgoing], now: float) -> None:
        """Take in what is to be sent, and what the desk knows now, in one transaction.

        A change of a message replaces one that waits, and so does a word to the same person; over
        the limit the oldest go, and the log says so.
        """
        for message in messages:
            if isinstance(message, (Edit, Whisper)):
                self._drop_older(message)
            row = Waiting(self._next_id, message, now)
            self._next_id += 1
            self.waiting[row.id] = row
            self._do("INSERT INTO outbox VALUES (?, ?, ?)", (row.id, _pack(message), now))
        while len(self.waiting) > _MOST_WAITING:
            oldest = next(iter(self.waiting))
            log.error("too much waits to be sent: message %d is dropped", oldest)
            self._remove(oldest)
        saved = _pack(self.case_file)
        if saved != self._saved:
            self._saved = saved
            self._do("INSERT OR REPLACE INTO memory VALUES ('cases', ?)", (saved,))
        self.commit()

    def sent(self, row: Waiting, place: Place | None) -> None:
        """Slack has taken it; ``place`` of what can be answered to."""
        if isinstance(row.what, Post) and row.what.address and place is not None:
            self.places[row.what.address] = place
            values = (row.what.address, place.channel, place.ts)
            self._do("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?)", values)
            while len(self.places) > _MOST_ADDRESSES:
                oldest = next(iter(self.places))
                del self.places[oldest]
                self._do("DELETE FROM addresses WHERE address = ?", (oldest,))
        self.drop(row)

    def drop(self, row: Waiting) -> None:
        """It is never sent (again)."""
        self._remove(row.id)
        self.commit()

    def _drop_older(self, message: Edit | Whisper) -> None:
        for row in list(self.waiting.values()):
            if _about(row.what) == _about(message):
                self._remove(row.id)

    def _remove(self, number: int) -> None:
        self.waiting.pop(number, None)
        self._do("DELETE FROM outbox WHERE id = ?", (number,))

    def _do(self, statement: str, values: tuple[Any, ...]) -> None:
        self._unwritten.append((statement, values))

    def commit(self) -> None:
        """Make everything so far durable, or else try again at the next call."""
        if not self._unwritten:
            return
        try:
            with self._db:
                for statement, values in self._unwritten:
                    self._db.execute(statement, values)
        except sqlite3.Error as error:
            if not self._failing:
                log.error("cannot write to %s (%s); alerts go out, but not from a new agent",
                          self.path, error)  # fmt: skip
            self._failing = True
            return
        self._failing = False
        self._unwritten.clear()

    def close(self) -> None:
        self.commit()
        self._db.close()


def _about(what: Outgoing) -> tuple[str, str]:
    """The same for what the newest alone is worth sending of."""
    if isinstance(what, Edit):
        return "edit", what.address
    return ("whisper", what.user) if isinstance(what, Whisper) else ("", "")
