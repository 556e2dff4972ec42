"""Opening a SQLite file of the agent's: its tables, its version, and a damaged one set aside."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lossguard.errors import ConfigError
from lossguard.failpoints import reach

log = logging.getLogger(__name__)

SCHEMA = 2
KEPT_DAMAGED = 3
"""So many damaged files are kept of each database, the newest."""

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, started REAL, hello BLOB, state TEXT, saved BLOB, heard REAL
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
_CHECK_S = 5.0
"""The check of a large file is broken off after so long [s]; damage then shows when it is read."""
_CHECK_OPCODES = 10_000
_COMPACTED_BYTES = 256 << 20
"""A file of an earlier schema is written anew, so that it can shrink, if it is no larger."""
_MOST_WAL_BYTES = 16 << 20
_OF_THE_DISK = (
    "disk I/O error", "database or disk is full", "attempt to write", "database is locked",
    "unable to open",
)  # fmt: skip


class Schema(NamedTuple):
    """What a file of one kind holds, and how it came to that."""

    version: int
    tables: str
    migrations: Mapping[int, str] = {}
    """By the version they start from: what makes the next one of it."""


RUNS = Schema(
    version=SCHEMA,
    tables=_TABLES,
    migrations={
        1: "ALTER TABLE runs ADD COLUMN heard REAL; UPDATE runs SET heard = started;",
    },
)


def open_database(path: Path, schema: Schema = RUNS) -> sqlite3.Connection:
    """The database in WAL mode, with one writer. A damaged file is set aside, not deleted.

    Raises ConfigError for a file that cannot be opened, or that a newer agent wrote.
    """
    for is_new in (False, True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return _connect(path, schema)
        except (OSError, sqlite3.Error, UnicodeError) as error:  # a damaged schema is no UTF-8
            if is_new or _is_of_the_disk(error):
                raise ConfigError(
                    f"the database {path} cannot be opened ({error}); is its directory yours and "
                    "writable, and is there space? LOSSGUARD_HOME names another place"
                ) from error
            set_aside(path, str(error))
    raise AssertionError("a new file was opened, or refused")


def _is_of_the_disk(error: Exception) -> bool:
    """Whether it says nothing of what the file holds."""
    return isinstance(error, OSError) or str(error).startswith(_OF_THE_DISK)


def is_damage(error: Exception) -> bool:
    """Whether the file itself is broken: no later attempt does any better."""
    return type(error) is sqlite3.DatabaseError


def set_aside(path: Path, why: str) -> None:
    """A file that is damaged makes way for a new one, and is kept for a person to look at."""
    moment = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"
    aside = path.with_name(f"{path.name}.damaged-{moment}")
    log.error(
        "the database %s is damaged (%s): it is set aside as %s, and a new one begins. Runs that "
        "go on are taken up as they speak; older ones and their incidents are only in the old file",
        path, why, aside.name,
    )  # fmt: skip
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
        reach("database.set_aside")
    for old in damaged_files(path)[:-KEPT_DAMAGED]:
        for suffix in ("", "-wal", "-shm"):
            old.with_name(old.name + suffix).unlink(missing_ok=True)


def damaged_files(path: Path) -> list[Path]:
    """The files that were set aside for a new one at ``path``, oldest first."""
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(file for file in found if not file.name.endswith(("-wal", "-shm")))


def _connect(path: Path, schema: Schema) -> sqlite3.Connection:
    if path.exists() and path.stat().st_size == 0:
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists() and wal.stat().st_size:
            raise sqlite3.DatabaseError("it is empty, and its log is not")
        log.error("the database %s is empty: nothing was kept, or it is lost", path)
    db = sqlite3.connect(path)
    db.text_factory = _decoded
    try:
        db.execute(f"PRAGMA busy_timeout = {_OPENING_WAIT_MS}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > schema.version:
            raise ConfigError(
                f"the database {path} has schema {version}, this agent knows {schema.version}: a "
                "newer lossguard wrote it; install that again, or set LOSSGUARD_HOME to a new place"
            )
        _check(db, path)
        if version == schema.version:
            _compare(db, schema)
        # Nothing has been written to it so far: what is set aside is as it was found.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {_MOST_WAL_BYTES}")
        if version != schema.version:
            _migrate(db, path, version, schema)
            _compare(db, schema)
        db.execute(f"PRAGMA busy_timeout = {_WRITING_WAIT_MS}")
    except BaseException:
        db.close()
        raise
    path.chmod(0o600)
    return db


def _decoded(raw: bytes) -> str:
    """A bit that fell over in a name must not make all the others unreadable."""
    return raw.decode(errors="replace")


def _compare(db: sqlite3.Connection, schema: Schema) -> None:
    """Raises sqlite3.DatabaseError where the tables are not those of the schema."""
    model = sqlite3.connect(":memory:")
    try:
        model.executescript(schema.tables)
        if _columns(db) != _columns(model):
            raise sqlite3.DatabaseError("its tables are not those of an agent")
    finally:
        model.close()


def _columns(db: sqlite3.Connection) -> dict[str, list[str]]:
    """Of every table, by name."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        table: [
            column for (column,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))
        ]
        for table in tables
    }


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raises sqlite3.DatabaseError on a file whose pages do not fit together."""
    until = time.monotonic() + _CHECK_S
    db.set_progress_handler(lambda: int(time.monotonic() > until), _CHECK_OPCODES)
    try:
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if str(error) != "interrupted":
            raise
        log.warning("%s is large: the check was broken off after %g s", path, _CHECK_S)
        return
    finally:
        db.set_progress_handler(None, 0)
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _migrate(db: sqlite3.Connection, path: Path, version: int, schema: Schema) -> None:
    """From whatever version to this one, in one transaction: a kill leaves the old or the new."""
    before = range(version, schema.version) if version else ()
    script = "".join(schema.migrations[number] for number in before) + schema.tables
    if version:
        log.info("%s goes from schema %d to %d", path, version, schema.version)
    try:
        db.executescript(f"BEGIN; {script} PRAGMA user_version = {schema.version};")
        reach("database.migrate")
        db.execute("COMMIT")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    if version and path.stat().st_size <= _COMPACTED_BYTES:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        try:
            db.execute("VACUUM")
        except sqlite3.OperationalError as error:
            log.warning("%s will not shrink when something is deleted (%s)", path, error)
