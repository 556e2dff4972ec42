"""Opening the agent's SQLite file: its tables, its version, and what to do with a damaged one."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

from lossguard.errors import ConfigError

log = logging.getLogger(__name__)

SCHEMA = 1

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

_OPENING_WAIT_MS = 5000
_WRITING_WAIT_MS = 50
"""Somebody else's lock on the file must not hold the agent's loop for longer."""


def open_database(path: Path) -> sqlite3.Connection:
    """The database in WAL mode, with one writer. A damaged file is set aside, not deleted.

    Raises ConfigError for a file that cannot be opened, or that a newer agent wrote.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.OperationalError as error:
        raise ConfigError(
            f"the database {path} cannot be opened ({error}); is its directory yours and "
            "writable, and is there space? LOSSGUARD_HOME names another place"
        ) from error
    except sqlite3.DatabaseError as error:
        _set_aside(path, error)
        return _connect(path)


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    log.error("the database %s is damaged (%s); set aside as %s, a new one begins",
              path, error, aside.name)  # fmt: skip
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    try:
        db.execute(f"PRAGMA busy_timeout = {_OPENING_WAIT_MS}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise ConfigError(
                f"the database {path} has schema {version}, this agent knows {SCHEMA}: a newer "
                "lossguard wrote it; install that again, or set LOSSGUARD_HOME to a new place"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.commit()
        db.execute(f"PRAGMA busy_timeout = {_WRITING_WAIT_MS}")
    except BaseException:
        db.close()
        raise
    path.chmod(0o600)
    return db
