"""What survives the agent: runs, their steps, incidents and commands, in one SQLite file.

After ``kill -9`` at most the last transaction is lost, and the file is consistent. While the disk
takes nothing, the agent goes on judging and ordering.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lossguard.agent.database import is_damage
from lossguard.agent.incidents import KeptIncident
from lossguard.agent.written_file import MAX_WAITING, WrittenFile
from lossguard.probes import wire

log = logging.getLogger(__name__)

KEPT_STEPS = 1_000_000
"""Steps kept per run."""
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


class Store(WrittenFile):
    """What is kept of runs. Not thread-safe: the agent's loop owns it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._steps: deque[tuple[Any, ...]] = deque(maxlen=MAX_WAITING)
        self._saved: dict[str, bytes] = {}
        self._last: dict[str, tuple[int, dict[str, float]]] = {}
        self._answers: dict[str, Answer] = {}
        """The newest, and all that are not in the file yet: an id is never forgotten."""
        self._purging = [run for (run,) in self._db.execute(_ORPHANS)]

    @property
    def num_waiting(self) -> int:
        """Rows that are yet to be written."""
        return len(self._waiting) + len(self._steps)

    # --- writing --------------------------------------------------------------------------

    def add_run(self, hello: wire.Hello) -> None:
        """A run begins, or is there again. The hello of rank 0 stands for the run."""
        if hello.run in self._purging:
            self.drop_steps(hello.run)
        again = "started = excluded.started, hello = excluded.hello, " if hello.rank == 0 else ""
        self._do(
            "INSERT INTO runs (run, started, hello, state, heard) VALUES (?, ?, ?, 'running', ?) "
            f"ON CONFLICT (run) DO UPDATE SET {again}state = 'running', heard = excluded.heard",
            (hello.run, hello.started_s, wire.encode(hello), time.time()),
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
        self._answers[command.command] = Answer("pending", 0, "")
        self._do(
            "INSERT OR IGNORE INTO commands VALUES (?, ?, ?, ?, ?, 'pending', 0, '')",
            (command.command, command.run, time.time(), wire.encode(command), incident),
        )
        self.commit()

    def end_command(self, command: str, status: str, step: int, result: str) -> None:
        self._answers[command] = Answer(status, step, result)
        self._do(
            "UPDATE commands SET status = ?, step = ?, result = ? WHERE command = ?",
            (status, step, result, command),
        )

    def prune(self, run: str, newest_step: int) -> None:
        """Drop the oldest steps of a very long run."""
        if newest_step > KEPT_STEPS:
            self._do(
                "DELETE FROM steps WHERE run = ? AND step < ?", (run, newest_step - KEPT_STEPS)
            )

    def drop_steps(self, run: str) -> None:
        """The run begins anew: its steps count from the start again."""
        self._last.pop(run, None)
        self._steps = deque((row for row in self._steps if row[0] != run), maxlen=MAX_WAITING)
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

    def tick(self) -> None:
        """A few times a second: purge a little, make everything so far durable."""
        self._look_for_the_file()
        run = self._purging[0] if self._purging and not self._failing else None
        if run is not None:
            self.shorten(run)
        if self.commit() and run is not None:
            left = self._db.execute("SELECT 1 FROM steps WHERE run = ? LIMIT 1", (run,))
            if left.fetchone() is None:
                self._purging.remove(run)
        if not self._failing:
            self._give_back()

    @property
    def _waits(self) -> bool:
        return bool(super()._waits or self._steps or self._saved)

    def _write_all(self) -> None:
        super()._write_all()
        self._db.executemany(_STEP, self._steps)
        for run, saved in self._saved.items():
            values = (saved, time.time(), run)
            self._db.execute("UPDATE runs SET saved = ?, heard = ? WHERE run = ?", values)

    def _forget_written(self) -> None:
        super()._forget_written()
        self._steps.clear()
        self._saved.clear()
        for oldest in list(self._answers)[:-_MAX_ANSWERS]:
            del self._answers[oldest]

    # --- how much is kept -------------------------------------------------------------------

    @property
    def is_purging(self) -> bool:
        """Whether steps of runs that were forgotten are still there."""
        return bool(self._purging)

    def heard(self) -> dict[str, float]:
        """When each run was heard of last: wall clock [s since the epoch]."""
        try:
            return dict(self._db.execute("SELECT run, coalesce(heard, started) FROM runs"))
        except sqlite3.Error:
            return {}

    def shorten(self, run: str) -> None:
        """Drop the oldest few thousand steps of a run that goes on."""
        oldest = "SELECT step FROM steps WHERE run = ? ORDER BY step LIMIT ?"
        self._do(
            f"DELETE FROM steps WHERE run = ? AND step IN ({oldest})", (run, run, _PURGED_AT_ONCE)
        )

    # --- reading --------------------------------------------------------------------------

    def runs(self, limit: int = 200) -> list[tuple[wire.Hello, str, dict[str, Any] | None]]:
        """(hello, state, saved state), newest first."""
        self.commit()
        query = "SELECT run, hello, state, saved FROM runs ORDER BY started DESC LIMIT ?"
        try:
            rows = self._db.execute(query, (limit,)).fetchall()
        except sqlite3.DatabaseError as error:  # a large file, which was not checked to its end
            if not is_damage(error):
                raise
            self._begin_anew(str(error))
            rows = []
        found = []
        for run, hello, state, saved in rows:
            with _reported(f"run {run}"):
                message = wire.decode_from_probe(hello)
                if isinstance(message, wire.Hello):
                    found.append((message, state, msgspec.msgpack.decode(saved) if saved else None))
        return found

    def steps_after(self, run: str, step: int) -> Iterator[StoredStep]:
        """The steps after ``step``, in order."""
        return self.steps_between(run, step + 1, (1 << 62))

    def steps_between(self, run: str, first: int, last: int) -> Iterator[StoredStep]:
        """The steps from ``first`` to ``last``, both included, in order."""
        self.commit()
        rows = self._db.execute(
            "SELECT step, applied, time_s, metrics FROM steps WHERE run = ? AND step BETWEEN ? "
            "AND ? ORDER BY step",
            (run, first, last),
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

    def commands_of(self, prefix: str, limit: int) -> list[tuple[wire.Command, Answer]]:
        """The newest of those whose ids begin so, oldest first."""
        rows = self._db.execute(
            "SELECT command, body, status, step, result FROM commands "
            "WHERE substr(command, 1, ?) = ? ORDER BY issued DESC LIMIT ?",
            (len(prefix), prefix, limit),
        ).fetchall()
        return [(order, Answer(*answer)) for order, *answer in _commands(reversed(rows))]

    def pending_commands(self, run: str) -> list[tuple[wire.Command, str]]:
        """(command, incident) of those a run has not answered, oldest first."""
        rows = self._db.execute(
            "SELECT command, body, incident FROM commands WHERE run = ? AND status = 'pending' "
            "ORDER BY issued",
            (run,),
        )
        return [(order, incident) for order, incident in _commands(rows)]

    def pending_by_hand(self) -> list[wire.Command]:
        """Those that a person gave, of whatever run: an agent's own belong to an incident."""
        query = "SELECT command, body FROM commands WHERE status = 'pending' AND incident = ''"
        try:
            rows = self._db.execute(query).fetchall()
        except sqlite3.Error:
            return []
        return [order for (order,) in _commands(rows)]


def _commands(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows of (id, command as sent, more): the command and what more there is."""
    for name, body, *more in rows:
        with _reported(f"command {name}"):
            message = wire.decode_from_agent(body)
            if isinstance(message, wire.Command):
                yield message, *more


@contextlib.contextmanager
def _reported(what: str) -> Iterator[None]:
    """One row that makes no sense is left out, and said; the others are read."""
    try:
        yield
    except ValueError as error:
        log.error("%s in the database makes no sense (%s); left out", what, error)
