"""A network that does what it wants: training goes on, and nothing is done twice or lost unsaid."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.home import Home
from lossguard.probes import wire
from lossguard.probes.guard import Guard, attach
from lossguard.probes.link import Link
from lossguard.probes.orders import Orders
from lossguard.probes.outbox import Outbox
from tests.support.agents import AgentProcess
from tests.support.probe import FakeProbe, hello_of
from tests.support.proxy import Proxy, Way, Weather, fair
from tests.support.waiting import becomes, eventually
from tests.unit.probes.loops import Tiny, loss_of, same, weights_of

# --- weathers -----------------------------------------------------------------------------------


def lossy(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """A third never arrives."""
    return [] if dice.random() < 0.33 else [0.0]


def repeating(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """Each comes up to three times."""
    return [0.0] * dice.randrange(1, 4)


def reordering(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """They overtake each other."""
    return [dice.random() * 0.05]


def all_at_once(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """Lost, repeated, late."""
    return [dice.random() * 0.05 for _ in range(dice.choice([0, 1, 1, 2, 3]))]


def slow(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """Half a second, each way."""
    return [0.5]


def cut(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """Nothing arrives."""
    return []


def deaf_agent(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """Half open: only what the agent says arrives."""
    return [] if way == "to agent" else [0.0]


def deaf_probe(way: Way, frames: list[bytes], dice: random.Random) -> list[float]:
    """Half open: only what the probe says arrives."""
    return [0.0] if way == "to agent" else []


_SLOW = pytest.mark.slow
WEATHERS: list[Weather] = [
    fair, lossy, repeating, reordering, all_at_once, slow, cut, deaf_agent, deaf_probe,
]  # fmt: skip


@pytest.fixture
def front(home: Home) -> Iterator[Home]:
    """Where the probes believe the agent to be."""
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as folder:
        yield replace(home, runtime=Path(folder)).create()


def trained(
    steps: int, home: Home | None, each: Any = lambda step, guard: None
) -> tuple[list[Any], float]:
    """Weights after so many steps of a small training, and its longest time of ours in a step."""
    torch.manual_seed(0)
    model = Tiny(dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    guard = attach(model, optimizer, policy="guard", agent="existing", name="t") if home else None
    own, longest = 0.0, 0.0
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        each(step, guard)
        if guard is not None:
            longest, own = max(longest, guard.own_time_s - own), guard.own_time_s
    if guard is not None:
        guard.close()
    return weights_of(model), longest


@pytest.mark.parametrize(
    "weather",
    [
        weather if weather in (fair, all_at_once, cut) else pytest.param(weather, marks=_SLOW)
        for weather in WEATHERS
    ],
    ids=lambda weather: weather.__name__,
)
def test_training_through_any_network_is_the_same_training(
    agent: AgentProcess, front: Home, monkeypatch: pytest.MonkeyPatch, weather: Weather
) -> None:
    """Bit for bit; and when the network is fair again the agent knows how much it has missed."""
    monkeypatch.setattr("lossguard.probes.beginning.find_home", lambda: front)
    plain, _ = trained(60, None)
    with Proxy(front, agent.home, seed=1) as proxy:

        def change(step: int, guard: Guard) -> None:
            if step == 0:
                eventually(lambda: proxy.carried > 5 and agent.runs())
                proxy.weather = weather
            elif step == 50:
                before = proxy.carried
                eventually(lambda: proxy.carried > before + 5)
                proxy.weather = fair
                eventually(lambda: guard._loop is not None and guard._loop._link._connected)

        watched, _ = trained(60, front, change)
        assert same(plain, watched)
        (run,) = eventually(lambda: [r for r in agent.runs().values() if r.state == "finished"])
    assert "Traceback" not in agent.log
    if weather in (fair, repeating):
        assert (proxy.lost, run.dropped) == (0, 0)
    if weather not in (reordering, all_at_once, slow):  # what overtakes is counted as a gap
        becomes(lambda: _kept(agent.home) + run.dropped, 60)


def _kept(home: Home) -> int:
    with sqlite3.connect(f"file:{home.database_path}?mode=ro", uri=True) as db:
        (kept,) = db.execute("SELECT count(*) FROM steps").fetchone()
    return int(kept)


# --- commands -----------------------------------------------------------------------------------


class Network:
    """Both ways in memory, by the dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.waiting: list[tuple[str, bytes]] = []

    def put(self, way: str, frame: bytes) -> None:
        """Lost, once, or several times."""
        self.waiting += [(way, frame)] * self.dice.choice([0, 1, 1, 1, 2, 3])

    def take(self) -> list[tuple[str, bytes]]:
        """Some of what is on its way, in whatever order; the rest comes later."""
        self.dice.shuffle(self.waiting)
        at = self.dice.randrange(len(self.waiting) + 1)
        taken, self.waiting = self.waiting[:at], self.waiting[at:]
        return taken


@pytest.mark.parametrize(
    ("seed", "commands"),
    [(1, 700), (2, 100), *(pytest.param(s, 10_000, marks=pytest.mark.slow) for s in (3, 4))],
)
def test_every_command_takes_effect_once_and_stands_so_in_the_journal(
    tmp_path: Path, seed: int, commands: int
) -> None:
    """Lost, repeated and reordered both ways, with a restart of the agent every now and then: what
    the probe has done and what the journal says is the same, command by command."""
    network = Network(seed)
    done: Counter[str] = Counter()

    def carry_out(command: wire.Command, step: int) -> dict[str, float | int | str]:
        done[command.command] += 1
        return {}

    orders = Orders(
        hello_of(), {"ack": carry_out}, lambda message: network.put("up", wire.encode(message))
    )
    registry = _joined(Store(tmp_path / "lossguard.db"), network)
    given = 0
    now = time.monotonic()
    for turn in range(100 * commands):
        for _ in range(network.dice.randrange(30) if given < commands else 0):
            registry.runs["run-a"].command(f"c{given}", "ack", {})
            given += 1
        now += 1.1
        registry.runs["run-a"]._acting.commands.repeat(now)
        for way, frame in network.take():
            if way == "up":
                registry.take(b"probe", [frame])
            else:
                message = wire.decode_from_agent(frame)
                if isinstance(message, wire.Command):
                    assert orders.obey(message, 5)
        if turn % 40 == 39:  # the agent is killed; what is committed is all that is left
            registry.store.commit()
            registry = _joined(Store(tmp_path / "lossguard.db"), network)
        if given >= commands and not registry.runs["run-a"]._acting.commands._outstanding:
            break
    registry.store.commit()
    journal = dict(registry.store._db.execute("SELECT command, status FROM commands").fetchall())
    assert len(journal) == given
    assert set(done.values()) == {1}
    refused = {name for name, status in journal.items() if status == "failed"}
    assert {name for name, status in journal.items() if status == "done"} == set(done)
    assert len(refused) + len(done) == given
    assert len(refused) < given // 10


def test_a_repeated_command_that_nobody_remembers_is_refused_and_not_done_again() -> None:
    """Thousands came since; what is new is done all the same."""
    done: Counter[str] = Counter()
    said: list[wire.Message] = []

    def carry_out(command: wire.Command, step: int) -> dict[str, float | int | str]:
        done[command.command] += 1
        return {}

    orders = Orders(hello_of(), {"skip": carry_out}, said.append)
    commands = [
        wire.Command(run="run-a", command=f"c{n}", action="skip", expires_step=99, number=n)
        for n in range(1, 2001)
    ]
    for command in [*commands, commands[0], commands[1999]]:
        orders.obey(command, 5)
    assert set(done.values()) == {1}
    assert len(done) == 2000
    first, last = said[-2:]
    assert isinstance(first, wire.Ack)
    assert isinstance(last, wire.Ack)
    assert (first.status, last.status) == ("failed", "done")


def test_what_is_missing_at_the_beginning_and_at_the_end_of_a_run_is_counted(
    agent: AgentProcess,
) -> None:
    """No later step shows such a gap; a run of which all arrives has none."""
    for name, before, after in (("run-whole", 0, 0), ("run-holes", 3, 4)):
        with FakeProbe(agent.home, hello_of(name)) as probe:
            probe.join()
            probe.send_step(2.0, lost=before)
            probe.send_step(2.0)
            probe.step += after
            probe.bye()
            run = agent.await_run(lambda run: run.state == "finished", name)
            assert run.dropped == before + after


def _joined(store: Store, network: Network) -> Registry:
    def send(identity: bytes, frame: bytes) -> bool:
        network.put("down", frame)
        return True

    registry = Registry(store, send)
    registry.take(b"probe", [wire.encode(hello_of(started_s=1.0))])
    return registry


def test_commands_through_a_real_bad_network_are_carried_out_once(
    agent: AgentProcess, front: Home
) -> None:
    """Sockets, a proxy that loses and repeats, a viewer that asks twice."""
    seen: Counter[str] = Counter()
    with (
        Proxy(front, agent.home, seed=2) as proxy,
        FakeProbe(front, hello_of()) as probe,
        Client(agent.home) as viewer,
    ):
        probe.join()
        agent.await_run(lambda run: run.state == "running")
        proxy.weather = all_at_once
        answers: dict[str, wire.Command] = {}
        for number in range(40):
            for _ in range(2):
                viewer.send(feed.SendCommand(run="run-a", command=f"c{number}", action="skip"))

        def all_done() -> bool:
            for command in probe.commands():
                if command.command not in answers:
                    answers[command.command] = command
                    seen[command.command] += 1
                probe.ack(command)
            probe.heard.clear()
            probe._taken = 0
            statuses = _journal(agent.home)
            return len(statuses) == 40 and set(statuses.values()) == {"done"}

        eventually(all_done, patience_s=60.0)
        assert set(seen) == {f"c{number}" for number in range(40)}


def _journal(home: Home) -> dict[str, str]:
    with sqlite3.connect(f"file:{home.database_path}?mode=ro", uri=True) as db:
        return dict(db.execute("SELECT command, status FROM commands").fetchall())


# --- processes that are stopped -----------------------------------------------------------------


def test_a_stopped_agent_costs_neither_time_nor_memory(agent: AgentProcess, home: Home) -> None:
    """SIGSTOP: the loop waits for nothing, what it cannot send is bounded and counted."""
    stopped = threading.Event()

    def stop(step: int, guard: Guard) -> None:
        if step == 5:
            eventually(lambda: agent.runs())
            os.kill(agent.process.pid, signal.SIGSTOP)
            stopped.set()

    plain, _ = trained(60, None)
    try:
        watched, longest_s = trained(60, home, stop)
    finally:
        os.kill(agent.process.pid, signal.SIGCONT)
    assert stopped.is_set()
    assert same(plain, watched)
    assert longest_s < 5.0  # far less than any time-out of ours: nothing was waited for


def test_the_end_comes_soon_though_the_agent_is_stopped_and_much_is_left_to_say(
    agent: AgentProcess, home: Home
) -> None:
    """Within two seconds (and a busy machine's one): the rest is given up."""
    outbox = Outbox("run-a", 0)
    link = Link(home, hello_of(), outbox, start_agents=False)
    eventually(lambda: link._connected)
    os.kill(agent.process.pid, signal.SIGSTOP)
    try:
        for number in range(60_000):
            outbox.tell(number, "note", "x" * 500)
        begun = time.monotonic()
        link.close(timeout_s=20.0)  # the thread ends by itself, and long before
        took_s = time.monotonic() - begun
    finally:
        os.kill(agent.process.pid, signal.SIGCONT)
    assert not link._thread.is_alive()
    assert took_s < 3.0


def test_a_viewer_that_is_stopped_does_not_hold_the_agent_up(agent: AgentProcess) -> None:
    """It subscribes and never reads: runs and other viewers are served."""
    with FakeProbe(agent.home, hello_of()) as probe, Client(agent.home) as asleep:
        probe.join()
        for number in range(200):
            asleep.send(feed.Subscribe(run="run-a", window=(0, number + 1)))
        for _ in range(50):
            probe.send_step(2.0)
        agent.await_run(lambda run: run.step == 50)
