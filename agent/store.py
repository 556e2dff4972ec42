"""What survives the agent: one SQLite file, written in one transaction a few times a second.

After ``kill -9`` at most the last transaction is lost, and the file is consistent. While the disk
takes nothing, writes wait in memory, within bounds, and the agent goes on judging and ordering.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lossguard.agent.database import open_database
from lossguard.agent.incidents import KeptIncident
from lossguard.probes import wire

log = logging.getLogger(__name__)

KEPT_STEPS = 1_000_000
"""Steps kept per run."""
_MAX_WAITING = 100_000
_MAX_ANSWERS = 1000
_PURGED_AT_ONCE = 5000

_STEP = "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?)"
_ORPHANS = """
WITH RECURSIVE seen(run) AS (
    SELECT min(run) FROM steps
    UNION ALL
    SELECT (SELECT min(run) FROM steps WHERE run > seen.run) FROM seen WHERE run IS NOT NULL
)
SELECT run FROM seen WHERE run IS NOT NULL AND run NOT IN (SELECT run FROM runs)
"""

_pack = msgspec.msgpack.encode


class StoredStep(NamedTuple):
    """The plain metrics of one step."""

    step: int
    applied: int
    time_s: float
    metrics: dict[str, float]


class Answer(NamedTuple):
    """How far a command has come: ``pending``, ``done`` or ``failed``."""

    status: str
    step: int
    result: str


class Store:
    """The database. Not thread-safe: the agent's loop owns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_database(path)
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque(maxlen=_MAX_WAITING)
        self._steps: deque[tuple[Any, ...]] = deque(maxlen=_MAX_WAITING)
        self._saved: dict[str, bytes] = {}
        self._last: dict[str, tuple[int, dict[str, float]]] = {}
        self._answers: dict[str, Answer] = {}
        self._purging = [run for (run,) in self._db.execute(_ORPHANS)]
        self._failing = False

    def close(self) -> None:
        """Write what is waiting and let go. Idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self.commit()
        self._db.close()

    # --- writing --------------------------------------------------------------------------

    def add_run(self, hello: wire.Hello) -> None:
        """A run begins, or is there again. The hello of rank 0 stands for the run."""
        if hello.run in self._purging:
            self.drop_steps(hello.run)
        again = "started = excluded.started, hello = excluded.hello, " if hello.rank == 0 else ""
        self._do(
            "INSERT INTO runs (run, started, hello, state) VALUES (?, ?, ?, 'running') "
            f"ON CONFLICT (run) DO UPDATE SET {again}state = 'running'",
            (hello.run, hello.started_s, wire.encode(hello)),
        )

    def end_run(self, run: str, state: str) -> None:
        self._last.pop(run, None)
        self._do("UPDATE runs SET state = ? WHERE run = ?", (state, run))

    def save_run(self, run: str, saved: dict[str, Any]) -> None:
        """The run's state, for a restart."""
        self._saved[run] = _pack(saved)

    def add_step(
        self, run: str, step: int, applied: int, time_s: float, metrics: dict[str, float]
    ) -> None:
        """Metrics that come again for the same step (a late ``guard.log``) join the first."""
        last_step, before = self._last.get(run, (-1, {}))
        if step == last_step:
            metrics = before | metrics
        self._last[run] = (step, metrics)
        self._steps.append((run, step, applied, time_s, _pack(metrics)))

    def put_incident(self, incident: KeptIncident) -> None:
        number = incident.id.rpartition(".")[2]
        self._do(
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?)",
            (incident.id, incident.run, int(number) if number.isdigit() else 0, _pack(incident)),
        )

    def add_command(self, command: wire.Command, incident: str) -> None:
        """To be called before the command is sent: it is durable then, if the disk takes it."""
        self._remember(command.command, Answer("pending", 0, ""))
        self._do(
            "INSERT OR IGNORE INTO commands VALUES (?, ?, ?, ?, ?, 'pending', 0, '')",
            (command.command, command.run, time.time(), wire.encode(command), incident),
        )
        self.commit()

    def end_command(self, command: str, status: str, step: int, result: str) -> None:
        self._remember(command, Answer(status, step, result))
        self._do(
            "UPDATE commands SET status = ?, step = ?, result = ? WHERE command = ?",
            (status, step, result, command),
        )

    def _remember(self, command: str, answer: Answer) -> None:
        self._answers[command] = answer
        if len(self._answers) > _MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def prune(self, run: str, newest_step: int) -> None:
        """Drop the oldest steps of a very long run."""
        if newest_step > KEPT_STEPS:
            self._do(
                "DELETE FROM steps WHERE run = ? AND step < ?", (run, newest_step - KEPT_STEPS)
            )

    def drop_steps(self, run: str) -> None:
        """The run begins anew: its steps count from the start again."""
        self._last.pop(run, None)
        self._steps = deque((row for row in self._steps if row[0] != run), maxlen=_MAX_WAITING)
        self._purging = [purged for purged in self._purging if purged != run]
        self._do("DELETE FROM steps WHERE run = ?", (run,))

    def keep_newest(self, count: int) -> None:
        """Forget all runs but the newest so many."""
        with contextlib.suppress(sqlite3.Error):
            rows = self._db.execute(
                "SELECT run FROM runs ORDER BY started DESC LIMIT -1 OFFSET ?", (count,)
            )
            for (run,) in rows.fetchall():
                self.forget(run)

    def forget(self, run: str) -> None:
        """Drop a run with all that belongs to it; its steps go little by little."""
        self._saved.pop(run, None)
        for table in ("runs", "incidents", "commands"):
            self._do(f"DELETE FROM {table} WHERE run = ?", (run,))
        self._purging.append(run)

    def _do(self, statement: str, values: tuple[Any, ...]) -> None:
        self._waiting.append((statement, values))

    def tick(self) -> None:
        """A few times a second: purge a little, make everything so far durable."""
        run = self._purging[0] if self._purging and not self._failing else None
        if run is not None:
            oldest = "SELECT step FROM steps WHERE run = ? ORDER BY step LIMIT ?"
            self._do(
                f"DELETE FROM steps WHERE run = ? AND step IN ({oldest})",
                (run, run, _PURGED_AT_ONCE),
            )
        if self.commit() and run is not None:
            left = self._db.execute("SELECT 1 FROM steps WHERE run = ? LIMIT 1", (run,))
            if left.fetchone() is None:
                self._purging.remove(run)

    def commit(self) -> bool:
        """Make everything so far durable; False when that has to wait."""
        if not (self._waiting or self._steps or self._saved):
            return True
        try:
            with self._db:
                self._write_all()
        except Exception as error:
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
        self._waiting.clear()
        self._steps.clear()
        self._saved.clear()
        return True

    def _write_all(self) -> None:
        for statement, values in self._waiting:
            self._db.execute(statement, values)
        self._db.executemany(_STEP, self._steps)
        for run, saved in self._saved.items():
            self._db.execute("UPDATE runs SET saved = ? WHERE run = ?", (saved, run))

    # --- reading --------------------------------------------------------------------------

    def runs(self, limit: int = 200) -> list[tuple[wire.Hello, str, dict[str, Any] | None]]:
        """(hello, state, saved state), newest first."""
        self.commit()
        rows = self._db.execute(
            "SELECT run, hello, state, saved FROM runs ORDER BY started DESC LIMIT ?", (limit,)
        )
        found = []
        for run, hello, state, saved in rows:
            with _reported(f"run {run}"):
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
            values: dict[str, float] = {}
            with _reported(f"step {number} of {run}"):
                # NaN and Inf survive MessagePack as floats.
                values = msgspec.msgpack.decode(metrics, type=dict[str, float])
            yield StoredStep(number, applied, time_s, values)

    def incidents(self, run: str) -> list[KeptIncident]:
        """Oldest first."""
        self.commit()
        rows = self._db.execute(
            "SELECT id, body FROM incidents WHERE run = ? ORDER BY number", (run,)
        )
        found = []
        for name, body in rows:
            with _reported(f"incident {name}"):
                found.append(msgspec.msgpack.decode(body, type=KeptIncident))
        return found

    def command(self, command: str) -> Answer | None:
        """How far a command has come; None where there is none of that id."""
        if (known := self._answers.get(command)) is not None:
            return known
        row = None
        with contextlib.suppress(sqlite3.OperationalError):
            row = self._db.execute(
                "SELECT status, step, result FROM commands WHERE command = ?", (command,)
            ).fetchone()
        return Answer(*row) if row else None

    def pending_commands(self, run: str) -> list[tuple[wire.Command, str]]:
        """(command, incident) of those a run has not answered, oldest first."""
        rows = self._db.execute(
            "SELECT command, body, incident FROM commands WHERE run = ? AND status = 'pending' "
            "ORDER BY issued",
            (run,),
        )
        found = []
        for name, body, incident in rows:
            with _reported(f"command {name}"):
                message = wire.decode_from_agent(body)
                if isinstance(message, wire.Command):
                    found.append((message, incident))
        return found


@contextlib.contextmanager
def _reported(what: str) -> Iterator[None]:
    """One row that makes no sense is left out, and said; the others are read."""
    try:
        yield
    except ValueError as error:
        log.error("%s in the database makes no sense (%s); left out", what, error)
