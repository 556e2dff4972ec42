"""A run as the agent's database has it, written by hand."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from lossguard.agent.feed import ActionLine, EventLine
from lossguard.agent.history import MetricHistory
from lossguard.agent.incidents import KeptIncident
from lossguard.agent.layer_history import LayerHistory
from lossguard.detectors import Family, Observation
from lossguard.probes import wire
from tests.support.probe import hello_of

RUN = "tiny-0101-000000-abcd"


def add_run(
    db: sqlite3.Connection,
    run: str = RUN,
    *,
    state: str = "finished",
    saved: dict[str, Any] | None = None,
    **hello: Any,
) -> wire.Hello:
    """Its hello and its saved state."""
    said = hello_of(run, **({"started_s": 1.7e9} | hello))
    db.execute(
        "INSERT INTO runs (run, started, hello, state, saved) VALUES (?, ?, ?, ?, ?)",
        (run, said.started_s, wire.encode(said), state, msgspec.msgpack.encode(saved or {})),
    )
    db.commit()
    return said


def add_steps(
    db: sqlite3.Connection, rows: Iterable[tuple[int, dict[str, float]]], run: str = RUN
) -> None:
    """Steps of a tenth of a second each."""
    db.executemany(
        "INSERT INTO steps (run, step, applied, time_s, metrics) VALUES (?, ?, ?, ?, ?)",
        ((run, step, step, step / 10, msgspec.msgpack.encode(known)) for step, known in rows),
    )
    db.commit()


def add_incident(db: sqlite3.Connection, line: KeptIncident) -> None:
    """One more."""
    number = int(line.id.rpartition(".")[2])
    db.execute(
        "INSERT INTO incidents (id, run, number, body) VALUES (?, ?, ?, ?)",
        (line.id, line.run, number, msgspec.msgpack.encode(line)),
    )
    db.commit()


def add_command(
    db: sqlite3.Connection, action: wire.Action, step: int, result: str, incident: str = ""
) -> None:
    """One that was carried out."""
    order = wire.Command(run=RUN, command=f"c-{action}-{step}", action=action, expires_step=step)
    db.execute(
        "INSERT INTO commands (command, run, issued, body, incident, status, step, result) "
        "VALUES (?, ?, ?, ?, ?, 'done', ?, ?)",
        (order.command, RUN, 1.7e9 + step, wire.encode(order), incident, step, result),
    )
    db.commit()


def incident(**changes: Any) -> KeptIncident:
    """A loss spike that was skipped and rolled back."""
    known: dict[str, Any] = {
        "id": f"{RUN}.1",
        "run": RUN,
        "state": "resolved",
        "symptom": "loss_spike",
        "severity": "critical",
        "metric": "loss",
        "onset_step": 100,
        "detected_step": 101,
        "end_step": 110,
        "score": 5.0,
        "message": "the loss is 30 where 2 is usual",
        "where": "blocks.2",
        "evidence": {"level": 2.0},
        "opened": 1.7e9,
        "actions": [
            ActionLine(action="skip", step=101, result="done: the loss is over its bound"),
            ActionLine(action="skip", step=102, result="done: the loss is over its bound"),
            ActionLine(action="rollback", step=103, result="done: restored_step 90"),
        ],
    }
    return KeptIncident(**(known | changes))


def troubled(db: sqlite3.Connection, **hello: Any) -> wire.Hello:
    """A run of 300 steps with a spike at 100, a NaN at 200, a rollback from 103 to 90, layers."""
    layers = LayerHistory()
    history = MetricHistory()
    rows = []
    for step in range(1, 301):
        loss = 30.0 if step == 100 else math.nan if step == 200 else 2.0 + 1.0 / step
        known = {"loss": loss, "grad_norm": 1.0, "lr": 1e-3, "step_time": 0.1, "rss": 1e9,
                 "skipped": float(step in (101, 102))}  # fmt: skip
        if step % 50 == 0:
            known["val_loss"] = 2.5 + 1.0 / step
        rows.append((step, known))
        history.add(step, 10.0)
        norms = np.array([0.1, 10.0 if step == 100 else 0.2], dtype=np.float32)
        family = Family(("embed", "<head>"), norms, np.zeros(2, dtype=np.bool_))
        layers.note(Observation(step, {}, families={"grad_norm": family}))
    saved = {
        "rollbacks": [[103, 90]],
        "events": [msgspec.to_builtins(event(101, "update skipped <b>"))],
        "bounds": {"grad_norm": history.state()},
        "layers": layers.state(),
    }
    said = add_run(db, saved=saved, **hello)
    add_steps(db, rows)
    add_incident(db, incident())
    add_incident(db, incident(id=f"{RUN}.2", symptom="nonfinite", onset_step=200, end_step=None,
                              state="open", message="loss is nan", actions=[]))  # fmt: skip
    add_command(db, "rollback", 103, "restored_step 90", f"{RUN}.1")
    return said


def event(step: int, message: str) -> EventLine:
    """One line of the log."""
    return EventLine(step=step, kind="skip", message=message, time_s=1.7e9 + step)
