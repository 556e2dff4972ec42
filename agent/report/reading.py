"""What the agent keeps of one run, read while it writes, without being in its way."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lossguard.agent.database import SCHEMA
from lossguard.agent.incidents import KeptIncident
from lossguard.errors import InputError
from lossguard.probes import wire

CHUNK = 20_000
"""Steps that are read at once."""

_decode_metrics = msgspec.msgpack.Decoder(dict[str, float]).decode


RawStep = tuple[int, int, float, bytes]


class StepRow(NamedTuple):
    """The plain metrics of one step."""

    step: int
    applied: int
    time_s: float
    metrics: dict[str, float]


class CommandRow(NamedTuple):
    """An order to the loop, and what came of it: ``status`` is pending, done or failed."""

    action: str
    incident: str
    status: str
    step: int
    result: str


class StepRange(NamedTuple):
    """What there is of a run when reading begins; the run may go on meanwhile."""

    first: int
    last: int
    num: int


@dataclass(frozen=True)
class RunRow:
    """A run as the database has it; ``saved`` is empty where there is none that can be read."""

    hello: wire.Hello
    state: str
    saved: dict[str, Any]


@dataclass
class RunReader:
    """The database, opened so that nothing can be written to it.

    Rows are read in pieces, so that no transaction of ours is open for long: the agent's log of
    changes could not be folded in meanwhile. What cannot be read is counted in ``damaged``.
    """

    path: Path
    damaged: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> RunReader:
        if not self.path.exists():
            raise InputError(
                f"no runs yet: there is no {self.path}; start one with `lossguard run`, or say "
                "with LOSSGUARD_HOME where they are"
            )
        try:
            # A path may hold ? and #, which mean something in a URI.
            self._db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            # A name with a damaged byte must not hide all the others.
            self._db.text_factory = lambda raw: raw.decode(errors="replace")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from error
        if version > SCHEMA:
            self._db.close()
            raise InputError(
                f"{self.path}: a newer lossguard wrote it (schema {version}, this one knows "
                f"{SCHEMA}); install that again"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # --- one run --------------------------------------------------------------------------

    def find(self, name: str) -> RunRow:
        """By id, else the newest of that name, else the newest whose id begins so; the newest of
        all for an empty name. Raises InputError where there is none."""
        try:
            rows = self._db.execute("SELECT run, hello, state FROM runs ORDER BY started DESC")
            known = [(run, self._hello(hello), state) for run, hello, state in rows]
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from error
        runs = [(run, hello, state) for run, hello, state in known if hello is not None]
        if not runs:
            raise InputError(f"no runs in {self.path} so far: start one with `lossguard run`")
        found = next((one for one in runs if one[0] == name), None)
        found = found or next((one for one in runs if one[1].name == name), None)
        found = found or next((one for one in runs if one[0].startswith(name)), None)
        if found is None:
            newest = ", ".join(run for run, _, _ in runs[:3])
            raise InputError(f"there is no run {name!r}; the newest are {newest}")
        run, hello, state = found
        return RunRow(hello, state, self._saved(run))

    def _hello(self, body: bytes) -> wire.Hello | None:
        try:
            message = wire.decode_from_probe(body)
        except (ValueError, TypeError):
            self.damaged["runs"] += 1
            return None
        return message if isinstance(message, wire.Hello) else None

    def _saved(self, run: str) -> dict[str, Any]:
        try:
            (body,) = self._db.execute("SELECT saved FROM runs WHERE run = ?", (run,)).fetchone()
            saved = msgspec.msgpack.decode(body) if body else {}
        except (ValueError, TypeError, sqlite3.Error):
            saved = None
        if not isinstance(saved, dict):
            self.damaged["saved states"] += 1
            return {}
        return saved

    def incidents(self, run: str) -> list[KeptIncident]:
        """Oldest first."""
        found = []
        query = "SELECT body FROM incidents WHERE run = ? ORDER BY number"
        for (body,) in self._rows("incidents", query, (run,)):
            try:
                found.append(msgspec.msgpack.decode(body, type=KeptIncident))
            except (ValueError, TypeError):
                self.damaged["incidents"] += 1
        return found

    def commands(self, run: str) -> list[CommandRow]:
        """Oldest first."""
        found = []
        query = (
            "SELECT body, incident, status, step, result FROM commands WHERE run = ? "
            "ORDER BY issued"
        )
        for body, *rest in self._rows("commands", query, (run,)):
            try:
                message = wire.decode_from_agent(body)
            except (ValueError, TypeError):
                self.damaged["commands"] += 1
                continue
            if isinstance(message, wire.Command):
                found.append(CommandRow(message.action, *rest))
        return found

    def _rows(self, what: str, query: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        """All rows, or those before the place where the file itself is damaged."""
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error:
            self.damaged[what] += 1

    # --- its steps ------------------------------------------------------------------------

    def extent(self, run: str) -> StepRange | None:
        """From which step to which there is anything; None where there is nothing."""
        query = "SELECT min(step), max(step), count(*) FROM steps WHERE run = ?"
        for first, last, num in self._rows("steps", query, (run,)):
            if num:
                return StepRange(first, last, num)
        return None

    def steps(self, run: str, last: int) -> Iterator[list[StepRow]]:
        """The steps up to ``last`` in order, at most ``CHUNK`` at a time, one by one."""
        for rows in self.raw_steps(run, last):
            yield [row for row in map(self._step, rows) if row is not None]

    def raw_steps(self, run: str, last: int) -> Iterator[list[RawStep]]:
        """The same as they are kept: (step, applied, time [s], MessagePack of the metrics)."""
        query = (
            "SELECT step, applied, time_s, metrics FROM steps WHERE run = ? AND step > ? "
            f"AND step <= ? ORDER BY step LIMIT {CHUNK}"
        )
        after = -(2**63)
        while True:
            rows = list(self._rows("steps", query, (run, after, last)))
            if not rows:
                return
            after = rows[-1][0]
            yield rows

    def _step(self, row: RawStep) -> StepRow | None:
        try:
            return StepRow(row[0], row[1], row[2], _decode_metrics(row[3]))
        except (ValueError, TypeError):
            self.damaged["steps"] += 1
            return None
