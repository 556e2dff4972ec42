"""The agent is killed at every place where it matters: the next one goes on as if it had not."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from lossguard import failpoints
from lossguard.agent import database
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.home import Home
from lossguard.probes import wire
from tests.faults.sites import agent_sites
from tests.faults.story import Agents, Killed
from tests.support.agents import AgentProcess, BeginAgent
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.support.waiting import eventually

ELSEWHERE = {"database.migrate", "database.set_aside", "registry.forgot", "daemon.started"}
"""Not on the way of a run: each has a test of its own below."""
ON_THE_WAY = [site for site in agent_sites() if site not in ELSEWHERE]


def told(folder: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> tuple[Agents, int]:
    """The story, with an agent that is killed there; and how often one was."""
    agents = Agents(folder)
    monkeypatch.setattr("lossguard.failpoints.os.kill", agents.kill)
    kills = 0
    for rules in (failpoints.parse(rule), []):
        monkeypatch.setattr(failpoints, "RULES", rules)
        try:
            agents.live()
            break
        except Killed:
            kills += 1
    return agents, kills


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Agents:
    """The story with an agent that nobody kills."""
    agents = Agents(tmp_path_factory.mktemp("whole"))
    agents.live()
    return agents


def test_without_a_kill_the_run_is_rolled_back_twice(whole: Agents) -> None:
    """The healthy twin."""
    assert whole.incidents() == [("loss_spike", "resolved")] * 2
    assert set(whole.journal().values()) == {"done"}
    assert list(whole.journal()) == list(whole.probe.executed)
    assert len(whole.probe.executed) == 2


@pytest.mark.parametrize(
    "nth", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 12))]
)
@pytest.mark.parametrize("site", ON_THE_WAY)
def test_a_kill_costs_no_incident_no_order_and_repeats_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Agents, site: str, nth: int
) -> None:
    """Both troubles are found, each is answered by one rollback, each order is accounted for."""
    agents, kills = told(tmp_path, monkeypatch, f"{site}:kill@{nth}")
    assert kills == 1 or nth > 1, "the place was never reached"
    assert Counter(agents.incidents()) == Counter(whole.incidents())
    assert agents.journal() == dict.fromkeys(agents.probe.executed, "done")
    assert len(agents.probe.executed) == 2
    memory, undisturbed = agents.memory(), whole.memory()
    assert memory["detectors"].keys() == undisturbed["detectors"].keys()
    assert (memory["step"], memory["actions"]) == (undisturbed["step"], undisturbed["actions"])


def test_baselines_and_timers_are_those_of_the_moment_of_the_kill(tmp_path: Path) -> None:
    """Every detector, history, bound and hold of the next agent is the one that was lost."""
    agents = Agents(tmp_path)
    agents.live()
    before = msgspec.msgpack.decode(msgspec.msgpack.encode(agents.memory()))
    agents.registry.store.commit()
    with pytest.raises(Killed):
        agents.kill(os.getpid(), 9)
    after = Registry(Store(agents.state / "lossguard.db"), lambda identity, frame: True)
    state = after.runs["run-a"].run.state()
    del state["events"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state)) == before


# --- places off the way of a run ----------------------------------------------------------------


def _kill_at(monkeypatch: pytest.MonkeyPatch, agents: Agents, rule: str) -> None:
    monkeypatch.setattr("lossguard.failpoints.os.kill", agents.kill)
    monkeypatch.setattr(failpoints, "RULES", failpoints.parse(rule))


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_kill_while_a_damaged_database_is_set_aside_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The next agent begins a new one, and the damaged bytes are still there."""
    agents = Agents(tmp_path)
    agents.state.mkdir()
    garbage = os.urandom(9000)
    (agents.state / "lossguard.db").write_bytes(garbage)
    _kill_at(monkeypatch, agents, f"database.set_aside:kill@{nth}")
    with pytest.raises(Killed):
        Store(agents.state / "lossguard.db")
    monkeypatch.setattr(failpoints, "RULES", [])
    Store(agents.state / "lossguard.db").close()
    kept = database.damaged_files(agents.state / "lossguard.db")
    assert [file.read_bytes() for file in kept] == [garbage]


def test_a_kill_in_a_migration_leaves_the_earlier_schema_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next agent migrates it."""
    from tests.faults.test_state import _write_earlier

    agents = Agents(tmp_path)
    path = agents.state / "lossguard.db"
    _write_earlier(path, 1)
    _kill_at(monkeypatch, agents, "database.migrate:kill")
    with pytest.raises(Killed):
        Store(path)
    with sqlite3.connect(agents.state / "lossguard.db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    monkeypatch.setattr(failpoints, "RULES", [])
    store = Store(agents.state / "lossguard.db")
    assert [hello.run for hello, _, _ in store.runs()] == ["run-a"]
    store.close()


def test_a_kill_while_a_run_is_forgotten_leaves_it_whole_or_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of a run that is gone go with it, in the next agent's time."""
    agents = Agents(tmp_path)
    agents.live()
    bye = wire.Bye(run="run-a", rank=0, step=200, reason="finished")
    agents.registry.take(b"probe", [wire.encode(bye)])
    agents.registry.store.commit()
    _kill_at(monkeypatch, agents, "registry.forgot:kill")
    with pytest.raises(Killed):
        agents.registry.forget(agents.registry.runs["run-a"])
    monkeypatch.setattr(failpoints, "RULES", [])
    store = Store(agents.state / "lossguard.db")
    registry = Registry(store, lambda identity, frame: True)
    assert list(registry.runs) == ["run-a"]  # nothing of it had reached the disk
    registry.forget(registry.runs["run-a"])
    store.commit()
    again = Store(agents.state / "lossguard.db")
    assert again.is_purging is False or list(again.steps_after("run-a", 0))
    for _ in range(3):
        again.tick()
    assert list(again.steps_after("run-a", 0)) == []
    again.close()


def test_an_agent_that_is_killed_as_it_starts_leaves_the_way_free(
    begin_agent: BeginAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock goes with the process."""
    monkeypatch.setenv("LOSSGUARD_FAILPOINT", "daemon.started:kill")
    dead = subprocess.run(
        [sys.executable, "-m", "lossguard", "agent"], capture_output=True, check=False
    )
    assert dead.returncode == -9
    monkeypatch.delenv("LOSSGUARD_FAILPOINT")
    assert begin_agent().stop() == 0


# --- real processes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "site",
    [
        site if site == "commands.journaled" else pytest.param(site, marks=pytest.mark.slow)
        for site in ON_THE_WAY
    ],
)
def test_a_real_agent_that_dies_there_is_followed_by_one_that_gives_the_order_once(
    home: Home, begin_agent: BeginAgent, monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    """kill -9 by itself, a new process, the same probe: one incident, one rollback, done."""
    monkeypatch.setenv("LOSSGUARD_FAILPOINT", f"{site}:kill")
    first = AgentProcess(home)
    monkeypatch.delenv("LOSSGUARD_FAILPOINT")
    executed: set[str] = set()
    with FakeProbe(home, hello_of()) as probe:
        try:
            second = _lead(probe, first, executed, begin_agent)
            assert first.process.poll() == -9, "the place was never reached"
            eventually(lambda: second.incidents() and second.incidents()[-1].actions)
            assert len(executed) == 1
            assert len(second.incidents()) == 1
        finally:
            first.stop()


def _lead(
    probe: FakeProbe, first: AgentProcess, executed: set[str], begin_agent: BeginAgent
) -> AgentProcess:
    """80 good steps, then bad ones until a rollback; a new agent as soon as the first is gone."""
    losses = iter(healthy_losses(400))
    agent, answered, bad = first, 0, False
    probe.say(probe.hello)
    probe.lay_out()
    # Who dies of the beginning does so now: each agent that judges has heard the good steps.
    eventually(lambda: first.process.poll() is not None or _has_run(first.home))
    for _ in range(2000):
        bad = bad or probe.step == 80
        probe.send_step(30.0 if bad and not executed else next(losses))
        if agent is first and first.process.poll() is not None:
            agent = begin_agent()
            probe.beat()
            probe.await_message(wire.Resend)
            probe.say(probe.hello)
            probe.lay_out()
        probe.hear(0.01)
        for order in probe.commands():
            executed.add(order.command)
            probe.ack(order, restored_step=70)
        answered += bool(executed)
        if answered > 20 and agent is not first:
            return agent
        if answered and agent is first:
            probe.beat()
    raise AssertionError("the story did not come to its end")


def _has_run(home: Home) -> bool:
    try:
        with sqlite3.connect(f"file:{home.database_path}?mode=ro", uri=True) as db:
            return bool(db.execute("SELECT 1 FROM runs").fetchall())
    except sqlite3.Error:
        return False
