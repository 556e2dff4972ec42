"""A run that goes wrong twice, told to an agent in this process that may die at any point."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.probes import wire
from tests.support.probe import hello_of
from tests.support.streams import healthy_losses

STEPS = 200
_TROUBLE = (84, 164)
"""From these steps on the loss is high, until a rollback."""
_TICK_STEPS = 5


class Killed(BaseException):
    """Nothing runs after it, as after kill -9."""


class Probe:
    """What the training process knows; it outlives every agent."""

    def __init__(self) -> None:
        self.losses = healthy_losses(STEPS + 1)
        self.step = 0
        self.is_bad = False
        self.executed: dict[str, wire.Ack] = {}
        """What was carried out, by the id of its command: the same id again is only answered."""

    def obey(self, command: wire.Command) -> wire.Ack:
        """Carry out what is new."""
        if command.command not in self.executed:
            self.is_bad = False
            self.executed[command.command] = wire.Ack(
                run=command.run, rank=0, command=command.command, status="done", step=self.step,
                result={"restored_step": self.step - 10},
            )  # fmt: skip
        return self.executed[command.command]

    def next_step(self) -> list[bytes]:
        """Its two frames."""
        self.step += 1
        self.is_bad |= self.step in _TROUBLE
        loss = 30.0 if self.is_bad else self.losses[self.step]
        header = wire.Step(
            run="run-a", rank=0, step=self.step, applied=self.step, layout=0, sequence=self.step,
            time_s=0.01 * self.step,
        )  # fmt: skip
        return [wire.encode(header), np.array([loss], dtype="<f4").tobytes()]


class Agents:
    """One after the other, each with the disk that the last one left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        self.probe = Probe()
        self.state = folder / "0"
        self.registry: Registry
        self._orders: list[wire.Command] = []

    def kill(self, pid: int, number: int) -> None:
        """In the place of ``os.kill``: the disk stays as it is at this moment."""
        assert pid == os.getpid()
        self._lives += 1
        after = self._folder / str(self._lives)
        if self.state.exists():
            shutil.copytree(self.state, after)
        self.state = after
        raise Killed

    def live(self) -> None:
        """From wherever the last one was to the end of the story."""
        store = Store(self.state / "lossguard.db")
        self.registry = Registry(store, self._send)
        self._join()
        while self.probe.step < STEPS:
            self._say(*self.probe.next_step())
            self._carry_out()
            if self.probe.step % _TICK_STEPS == 0:
                self.tick()
        self.tick()

    def tick(self) -> None:
        """By the clock."""
        self.registry.tick(time.monotonic())
        self.registry.store.tick()

    def _send(self, identity: bytes, frame: bytes) -> bool:
        message = wire.decode_from_agent(frame)
        if isinstance(message, wire.Command):
            self._orders.append(message)
        return True

    def _say(self, *frames: bytes) -> None:
        self.registry.take(b"probe", list(frames))

    def _join(self) -> None:
        layout = wire.Layout(run="run-a", rank=0, layout=0, names=["loss"])
        self._say(wire.encode(hello_of(started_s=1.0, host="another")))
        self._say(wire.encode(layout))
        self.registry.tick(time.monotonic())
        self._carry_out()

    def _carry_out(self) -> None:
        orders, self._orders = self._orders, []
        for order in orders:
            self._say(wire.encode(self.probe.obey(order)))

    # --- what came of it --------------------------------------------------------------------

    def incidents(self) -> list[tuple[str, str]]:
        """Those of the last agent."""
        run = self.registry.runs["run-a"].run
        return [(incident.line().symptom, incident.line().state) for incident in run.incidents.all]

    def journal(self) -> dict[str, str]:
        """How far each command has come, as it stands in the database."""
        store = self.registry.store
        store.commit()
        return dict(store._db.execute("SELECT command, status FROM commands").fetchall())

    def memory(self) -> dict[str, Any]:
        """All that cannot be asked again, but the moments at which things were said."""
        state = self.registry.runs["run-a"].run.state()
        return {key: value for key, value in state.items() if key != "events"}
