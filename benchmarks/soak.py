"""Many runs, millions of steps, random faults: nothing grows, and everything is accounted for.

    python -m benchmarks.soak                              # 10 million steps of 50 runs
    python -m benchmarks.soak --frames 1000000 --seed 7

A working day in fast motion: probes (their real links and outboxes, without a model) send as fast
as the agent takes it in, five runs at a time; a viewer looks on and gives commands. By the dice of
the seed the agent is killed and started again, stopped for a while, sent garbage. Every run has
fifty losses that are not finite. At the end, run by run, holds:

* steps sent = steps in the database + steps that are said to be dropped;
* every command is in the journal with its end, and was carried out once where it says ``done``;
* where a bad step has arrived, there is its incident;
* this process has not grown by more than 24 MiB from the first fifth on, nor the agent by more than
  that and what it keeps of the runs that are over.

Prints the seed, the faults, the sizes at every tenth; ends with 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import msgspec
import numpy as np
import psutil

from benchmarks.spine import own_home
from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.errors import AgentUnreachable
from lossguard.home import Home
from lossguard.probes import wire
from lossguard.probes.link import Link
from lossguard.probes.orders import Orders
from lossguard.probes.outbox import Measured, Outbox

_AT_ONCE = 5
_CHUNK = 64
_MOST_GROWTH_MIB = 24.0
_PER_RUN_MIB = 1.25
"""What an agent keeps of each run that is over, of at most 200 by default."""
_PATIENCE_S = 120.0
_NAMES = ["loss", "grad_norm", "lr"]


def main() -> None:
    parser = argparse.ArgumentParser(description="A day of many runs and many faults.")
    parser.add_argument("--frames", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    wrong = soak(options.frames, options.runs, options.faults, options.seed)
    for words in wrong:
        print(f"WRONG: {words}")
    sys.exit(1 if wrong else 0)


def soak(frames: int, runs: int, faults: int, seed: int) -> list[str]:
    """What does not hold, in words; empty where all does."""
    print(f"seed {seed}: {frames:,} steps, {runs} runs, {faults} faults", flush=True)
    with own_home() as home, Day(home, frames, runs, faults, seed).lived() as day:
        return [*day.wrong, *day.judged()]


# --- the parts ----------------------------------------------------------------------------------


class Agent:
    """A process that may be killed and started again."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.home.agent_log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lossguard", "agent"], stdout=log, stderr=log
            )
        self.await_answer(process)
        return process

    def await_answer(self, process: subprocess.Popen[bytes]) -> None:
        """Until it serves. Raises TimeoutError."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(self.home.agent_log_path.read_text()[-2000:])
            with Client(self.home) as client:
                try:
                    client.request(feed.Ping(), timeout_s=1.0)
                    return
                except AgentUnreachable:
                    continue
        raise TimeoutError("the agent does not answer")

    def kill(self, dice: random.Random) -> None:
        """And start the next."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def pause(self, dice: random.Random) -> None:
        """It stands still for a moment."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(dice.uniform(0.1, 2.0))
        self.process.send_signal(signal.SIGCONT)

    def annoy(self, dice: random.Random) -> None:
        """Connections that speak another language."""
        for _ in range(20):
            garbage = socket.socket(socket.AF_UNIX)
            garbage.connect(self.home.probe_endpoint.removeprefix("ipc://"))
            garbage.send(dice.randbytes(200))
            garbage.close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(_PATIENCE_S)

    def size_mib(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


@dataclass
class Probe:
    """What a training process would send and obey, at full speed."""

    home: Home
    run: str
    steps: int
    dice: random.Random
    sent: int = 0
    given: list[str] = field(default_factory=list)
    """Commands that the agent has taken for it."""
    carried_out: Counter[str] = field(default_factory=Counter)
    newest: int = 0
    looked_s: float = 0.0
    moved_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        hello = wire.Hello(
            run=self.run, protocol=wire.PROTOCOL, name="soak", rank=0, world_size=1,
            pid=os.getpid(), host=socket.gethostname(), started_s=time.time(), policy="guard",
            script=["soak.py"], versions={},
        )  # fmt: skip
        self.outbox = Outbox(self.run, 0)
        self.link = Link(self.home, hello, self.outbox, start_agents=False)
        self.layout = wire.Layout(run=self.run, rank=0, layout=0, names=_NAMES)
        self.bad_step = self.dice.randrange(self.steps // 4, self.steps // 2)
        self.orders = Orders(hello, {"skip": self._count}, self.outbox.say)

    def _count(self, command: wire.Command, step: int) -> dict[str, float | int | str]:
        self.carried_out[command.command] += 1
        return {"step": step}

    @property
    def is_connected(self) -> bool:
        return self.link._connected

    @property
    def is_behind(self) -> bool:
        """More is on its way than is worth adding to."""
        return self.sent - self.taken() > 1500

    def taken(self) -> int:
        """The newest step that the agent has written down; all, where nothing comes any more."""
        now = time.monotonic()
        if now - self.looked_s > 0.2:
            self.looked_s = now
            with closing(sqlite3.connect(self.home.database_path)) as db:
                query = "SELECT coalesce(max(step), 0) FROM steps WHERE run = ?"
                (newest,) = db.execute(query, (self.run,)).fetchone()
            if newest != self.newest:
                self.newest, self.moved_s = newest, now
            elif now - self.moved_s > 5.0 and self.is_connected:
                self.newest, self.moved_s = self.sent, now  # the rest was lost with an agent
        return self.newest

    def go_on(self) -> bool:
        """A few steps, if there is room for them; False when it has none left."""
        self.obey()
        for _ in range(0 if self.is_behind else min(_CHUNK, self.steps - self.sent)):
            self.sent += 1
            loss = 2.0 + 2.0 / (1 + 0.001 * self.sent) + self.dice.gauss(0.0, 0.02)
            if 0 <= self.sent - self.bad_step < 50:
                loss = float("nan")
            values = np.array([loss, 1.0 + self.dice.gauss(0.0, 0.05), 1e-3], dtype=np.float32)
            self.link.step = self.sent
            self.outbox.put(
                Measured(
                    step=self.sent, sequence=self.sent, layout=self.layout,
                    time_s=time.monotonic(), host=values, arrival=None,
                    factors=np.zeros(0, dtype=np.float32), factors_at=0, skip_index=-1,
                    counts_as_update=True,
                )
            )  # fmt: skip
        return self.sent < self.steps

    def obey(self) -> None:
        """Whatever has been ordered."""
        while self.link.orders:
            command = self.link.orders.popleft()
            if command.action == "skip":
                self.orders.obey(command, self.sent)
            else:
                self.orders.refuse(command, self.sent, "a soak has no model")

    def end(self) -> None:
        """When all is sent, and there is somebody to say goodbye to.

        Until the agent has written it down: what is said in the last quarter of a second before a
        kill, by a run that says no more, nobody can miss.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            self.obey()
            waiting = self.outbox.parcels or self.outbox._measured or self.outbox.words
            idle = self.is_connected and not waiting and not self.link.orders
            if idle and self.taken() >= self.sent:
                break
            time.sleep(0.01)
        self.outbox.farewell = wire.Bye(run=self.run, rank=0, step=self.sent, reason="finished")
        self.link.close(timeout_s=20.0)
        query = "SELECT 1 FROM runs WHERE run = ? AND state = 'finished'"
        while time.monotonic() < deadline:
            with closing(sqlite3.connect(self.home.database_path)) as db:
                if db.execute(query, (self.run,)).fetchone():
                    self.outbox = Outbox(self.run, 0)  # a process that has ended holds nothing
                    self.orders = Orders(self.link._hello, {}, self.outbox.say)
                    self.link._outbox = self.outbox
                    return
            time.sleep(0.02)
        raise TimeoutError(f"{self.run} is not finished")


class Day:
    """All of it."""

    def __init__(self, home: Home, frames: int, runs: int, faults: int, seed: int) -> None:
        self._home = home
        self._dice = random.Random(seed)
        self._agent = Agent(home)
        self._waiting = [(f"soak-{n:03d}", frames // runs) for n in range(runs)]
        self._alive: list[Probe] = []
        self._ended: list[Probe] = []
        self._frames = frames // runs * runs
        self._fault_at = sorted(self._dice.randrange(frames // 50, frames) for _ in range(faults))
        self._faults: Counter[str] = Counter()
        self._sizes: list[tuple[float, float]] = []
        self._seen = 0
        self.wrong: list[str] = []

    @contextmanager
    def lived(self) -> Iterator[Day]:
        """From morning to evening; then it can be judged."""
        begun = time.monotonic()
        try:
            with Client(self._home) as viewer:
                self._live(viewer)
            self._agent.stop()
            took_s = time.monotonic() - begun
            print(f"{self._frames:,} steps in {took_s:.0f} s; faults: {dict(self._faults)}")
            yield self
        finally:
            self._agent.process.kill()
            self._agent.process.wait()
            for probe in self._alive:
                probe.link.abandon()

    def _sent(self) -> int:
        return sum(probe.sent for probe in (*self._alive, *self._ended))

    def _live(self, viewer: Client) -> None:
        tenths = 0
        while self._waiting or self._alive:
            while self._waiting and len(self._alive) < _AT_ONCE:
                self._alive.append(Probe(self._home, *self._waiting.pop(0), self._dice))
            before = self._sent()
            for probe in list(self._alive):
                if not probe.go_on() and probe.is_connected:
                    probe.end()
                    self._alive.remove(probe)
                    self._ended.append(probe)
            self._look_on(viewer)
            sent = self._sent()
            while self._fault_at and sent >= self._fault_at[0]:
                self._fault_at.pop(0)
                self._fail()
            if sent * 10 // self._frames > tenths:
                tenths = sent * 10 // self._frames
                self._note_sizes(sent)
            if sent == before:
                time.sleep(0.005)  # all wait for the agent

    def _look_on(self, viewer: Client) -> None:
        if not self._alive or self._dice.random() > 0.02:
            return
        probe = self._dice.choice(self._alive)
        viewer.send(feed.Subscribe(run=probe.run, metrics=("loss",)))
        name = f"{probe.run}.{probe.sent}"
        order = feed.SendCommand(run=probe.run, command=name, action="skip")
        if probe.is_connected and name not in probe.given:
            try:
                answer = viewer.request(order, timeout_s=20.0)
            except AgentUnreachable:
                return
            if isinstance(answer, feed.CommandResult):
                probe.given.append(name)

    def _fail(self) -> None:
        fault = self._dice.choice([self._agent.kill, self._agent.pause, self._agent.annoy])
        self._faults[fault.__name__] += 1
        fault(self._dice)

    def _note_sizes(self, sent: int) -> None:
        own = psutil.Process().memory_info().rss / 2**20
        self._sizes.append((self._agent.size_mib(), own))
        print(f"{sent:>12,} steps: agent {self._sizes[-1][0]:7.1f} MiB, probes {own:7.1f} MiB",
              flush=True)  # fmt: skip

    # --- in the evening ---------------------------------------------------------------------

    def judged(self) -> Iterator[str]:
        """Everything that does not hold."""
        for who, sizes in zip(("agent", "probes"), zip(*self._sizes, strict=True), strict=True):
            growth = max(sizes) - max(sizes[: max(1, len(sizes) // 5)])
            print(f"growth of the {who}: {growth:+.1f} MiB")
            kept = _PER_RUN_MIB * len(self._ended) if who == "agent" else 0.0
            if growth > _MOST_GROWTH_MIB + kept:
                yield f"the {who} grew by {growth:.1f} MiB"
        lost = commands = 0
        with closing(sqlite3.connect(self._home.database_path)) as db:
            dropped = self._dropped(db)
            for probe in self._ended:
                lost += dropped[probe.run]
                commands += len(probe.given)
                yield from self._judged_run(db, probe, dropped[probe.run])
        print(f"{self._sent():,} steps sent, {lost:,} of them said to be dropped; {commands:,} "
              f"commands; trouble of {self._seen} runs")  # fmt: skip

    def _dropped(self, db: sqlite3.Connection) -> dict[str, int]:
        found = db.execute("SELECT run, saved FROM runs")
        return {run: int(msgspec.msgpack.decode(saved)["dropped"]) for run, saved in found}

    def _judged_run(self, db: sqlite3.Connection, probe: Probe, dropped: int) -> Iterator[str]:
        (kept,) = db.execute("SELECT count(*) FROM steps WHERE run = ?", (probe.run,)).fetchone()
        if kept + dropped != probe.sent:
            yield f"{probe.run}: {probe.sent} sent, {kept} kept, {dropped} said to be dropped"
        query = "SELECT command, status FROM commands WHERE run = ?"
        journal = dict(db.execute(query, (probe.run,)).fetchall())
        if missing := set(probe.given) - journal.keys():
            yield f"{probe.run}: {len(missing)} commands are not in the journal"
        if pending := [name for name, status in journal.items() if status == "pending"]:
            yield f"{probe.run}: {len(pending)} commands have no end: {pending[:3]}"
        done = {name for name, status in journal.items() if status == "done"}
        if more := [name for name, times in probe.carried_out.items() if times > 1]:
            yield f"{probe.run}: carried out more than once: {more[:3]}"
        if unsaid := (done & set(probe.given)) - probe.carried_out.keys():
            yield f"{probe.run}: done, says the journal, but never carried out: {unsaid}"
        bad = "SELECT count(*) FROM steps WHERE run = ? AND step BETWEEN ? AND ?"
        (arrived,) = db.execute(bad, (probe.run, probe.bad_step, probe.bad_step + 49)).fetchone()
        incidents = db.execute("SELECT 1 FROM incidents WHERE run = ?", (probe.run,)).fetchall()
        self._seen += bool(arrived)
        if arrived and not incidents:
            yield f"{probe.run}: step {probe.bad_step} was not finite, and has no incident"


if __name__ == "__main__":
    main()
