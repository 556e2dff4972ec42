"""What survives the agent: one SQLite file in WAL mode, with one writer.

Writes are collected and committed a few times a second; after ``kill -9`` at most that much is
lost, and the file is consistent. A file that is damaged is set aside, not deleted.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lossguard.agent.feed import IncidentLine
from lossguard.probes import wire

log = logging.getLogger(__name__)

SCHEMA = 1
KEPT_STEPS = 1_000_000
"""Steps kept per run."""

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, started REAL, hello BLOB, state TEXT, saved BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS steps (
    run TEXT, step INTEGER, applied INTEGER, time_s REAL, metrics BLOB,
    PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY, run TEXT, number INTEGER, body BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS incidents_by_run ON incidents (run, number);
CREATE TABLE IF NOT EXISTS commands (
    command TEXT PRIMARY KEY, run TEXT, issued REAL, body BLOB, incident TEXT,
    status TEXT, step INTEGER, result TEXT
) STRICT;
"""

_pack = msgspec.msgpack.encode


class StoredStep(NamedTuple):
    """The plain metrics of one step."""

    step: int
    applied: int
    time_s: float
    metrics: dict[str, float]


class Store:
    """The database. Not thread-safe: the agent's loop owns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = _open(path)
        self._steps: list[tuple[str, int, int, float, bytes]] = []
        self._last: dict[str, tuple[int, dict[str, float]]] = {}
        self._dirty = False

    def close(self) -> None:
        """Write what is waiting and let go. Idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self.commit()
        self._db.close()

    # --- writing --------------------------------------------------------------------------

    def add_run(self, hello: wire.Hello) -> None:
        self._do(
            "INSERT INTO runs (run, started, hello, state) VALUES (?, ?, ?, 'running') "
            "ON CONFLICT (run) DO UPDATE SET state = 'running'",
            (hello.run, hello.started_s, wire.encode(hello)),
        )

    def end_run(self, run: str, state: str) -> None:
        self._last.pop(run, None)
        self._do("UPDATE runs SET state = ? WHERE run = ?", (state, run))

    def save_run(self, run: str, saved: dict[str, Any]) -> None:
        """The run's state, for a restart."""
        self._do("UPDATE runs SET saved = ? WHERE run = ?", (_pack(saved), run))

    def add_step(
        self, run: str, step: int, applied: int, time_s: float, metrics: dict[str, float]
    ) -> None:
        """Metrics that come again for the same step (a late ``guard.log``) join the first."""
        last_step, before = self._last.get(run, (-1, {}))
        if step == last_step:
            metrics = before | metrics
        self._last[run] = (step, metrics)
        self._steps.append((run, step, applied, time_s, _pack(metrics)))

    def put_incident(self, line: IncidentLine) -> None:
        number = line.id.rpartition(".")[2]
        self._do(
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?)",
            (line.id, line.run, int(number) if number.isdigit() else 0, _pack(line)),
        )

    def add_command(self, command: wire.Command, incident: str) -> None:
        """To be called, and committed, before the command is sent."""
        self._do(
            "INSERT OR IGNORE INTO commands VALUES (?, ?, ?, ?, ?, 'pending', 0, '')",
            (command.command, command.run, time.time(), wire.encode(command), incident),
        )
        self.commit()

    def end_command(self, command: str, status: str, step: int, result: str) -> None:
        self._do(
            "UPDATE commands SET status = ?, step = ?, result = ? WHERE command = ?",
            (status, step, result, command),
        )

    def _do(self, statement: str, values: tuple[Any, ...]) -> None:
        self._db.execute(statement, values)
        self._dirty = True

    def commit(self) -> None:
        """Make everything so far durable."""
        if self._steps:
            self._db.executemany("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?)", self._steps)
            self._steps = []
            self._dirty = True
        if self._dirty:
            self._db.commit()
            self._dirty = False

    def prune(self, run: str, newest_step: int) -> None:
        """Drop the oldest steps of a very long run."""
        if newest_step > KEPT_STEPS:
            self._do(
                "DELETE FROM steps WHERE run = ? AND step < ?", (run, newest_step - KEPT_STEPS)
            )

    # --- reading --------------------------------------------------------------------------

    def runs(self, limit: int = 200) -> list[tuple[wire.Hello, str, dict[str, Any] | None]]:
        """(hello, state, saved state), newest first."""
        self.commit()
        rows = self._db.execute(
            "SELECT hello, state, saved FROM runs ORDER BY started DESC LIMIT ?", (limit,)
        )
        found = []
        for hello, state, saved in rows:
            message = wire.decode_from_probe(hello)
            if isinstance(message, wire.Hello):
                found.append((message, state, msgspec.msgpack.decode(saved) if saved else None))
        return found

    def steps_after(self, run: str, step: int) -> Iterator[StoredStep]:
        """The steps after ``step``, in order."""
        self.commit()
        rows = self._db.execute(
            "SELECT step, applied, time_s, metrics FROM steps WHERE run = ? AND step > ? "
            "ORDER BY step",
            (run, step),
        )
        for number, applied, time_s, metrics in rows:
            yield StoredStep(number, applied, time_s, _numbers(metrics))

    def incidents(self, run: str) -> list[IncidentLine]:
        """Oldest first."""
        self.commit()
        rows = self._db.execute("SELECT body FROM incidents WHERE run = ? ORDER BY number", (run,))
        return [msgspec.msgpack.decode(body, type=IncidentLine) for (body,) in rows]

    def command(self, command: str) -> tuple[str, int, str] | None:
        """(status, step, result) of a command, or None where there is none of that id."""
        row = self._db.execute(
            "SELECT status, step, result FROM commands WHERE command = ?", (command,)
        ).fetchone()
        return (row[0], row[1], row[2]) if row else None

    def pending_commands(self, run: str) -> list[tuple[wire.Command, str]]:
        """(command, incident) of those a run has not answered, oldest first."""
        rows = self._db.execute(
            "SELECT body, incident FROM commands WHERE run = ? AND status = 'pending' "
            "ORDER BY issued",
            (run,),
        )
        found = []
        for body, incident in rows:
            message = wire.decode_from_agent(body)
            if isinstance(message, wire.Command):
                found.append((message, incident))
        return found


def _numbers(metrics: bytes) -> dict[str, float]:
    """NaN and Inf survive MessagePack as floats."""
    decoded: dict[str, float] = msgspec.msgpack.decode(metrics, type=dict[str, float])
    return decoded


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        log.error("the database %s is damaged (%s); set aside as %s, a new one begins",
                  path, error, aside.name)  # fmt: skip
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA):
            raise sqlite3.DatabaseError(f"schema version {version}, this agent knows {SCHEMA}")
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.commit()
    except BaseException:
        db.close()
        raise
    path.chmod(0o600)
    return db
