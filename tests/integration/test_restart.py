"""An agent that ends in whatever way, and the next one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import pytest

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.home import Home
from lossguard.probes import wire
from tests.support.agents import AgentProcess, BeginAgent
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.support.waiting import PATIENCE_S, eventually


def rows(home: Home, query: str) -> list[tuple[object, ...]]:
    """What stands in the database, seen from outside."""
    with sqlite3.connect(f"file:{home.database_path}?mode=ro", uri=True) as db:
        return db.execute(query).fetchall()


def test_after_kill_9_everything_is_taken_up_and_the_probe_is_found_again(
    home: Home, begin_agent: BeginAgent
) -> None:
    """Runs, incidents, baselines, dropped counts and the pending order survive."""
    first = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        for loss in healthy_losses(80):
            probe.send_step(loss)
        probe.send_step(2.1, lost=4)
        for _ in range(3):
            probe.send_step(30.0)
        order = probe.await_message(wire.Command)
        # What is committed is there; the order was, before it was sent, and the steps soon are.
        eventually(lambda: rows(home, "SELECT 1 FROM steps WHERE step = 84"))
        before = first.incidents()[0]
        first.kill()

        second = begin_agent()
        taken_up = second.run()
        assert taken_up is not None
        assert (taken_up.state, taken_up.step) == ("silent", 84)
        after = second.incidents()[0]
        assert (after.id, after.onset_step, after.state) == (before.id, before.onset_step, "open")

        probe.beat()
        probe.await_message(wire.Resend)
        probe.join()
        assert probe.await_message(wire.Command) == order
        probe.send_step(30.0)
        second.await_run(lambda r: r.step == 85 and r.state == "running")
        assert {command.command for command in probe.commands()} == {order.command}
        probe.ack(order, restored_step=70)
        eventually(lambda: second.incidents()[0].actions)
        # No warm-up: the very next leap is known for what it is.
        for loss in healthy_losses(160)[80:]:
            probe.send_step(loss)
        for _ in range(3):
            probe.send_step(30.0)
        again = eventually(lambda: [c for c in probe.commands() if c != order])[0]
        assert again.args["onset"] == 166
        assert (run := second.run()) is not None
        assert run.dropped == 4


def test_a_restart_counts_what_was_lost_in_between(home: Home, begin_agent: BeginAgent) -> None:
    """Steps that neither agent took in are missing, and said to be."""
    first = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        probe.send_step(2.0)
        probe.send_step(2.0)
        eventually(lambda: rows(home, "SELECT 1 FROM steps WHERE step = 2"))
        first.kill()
        second = begin_agent()
        probe.beat()
        probe.await_message(wire.Resend)
        probe.join()
        probe.send_step(2.0, lost=7)
        second.await_run(lambda r: r.dropped == 7)


def test_sigterm_saves_and_ends_with_0(home: Home, begin_agent: BeginAgent) -> None:
    """Nothing is lost by an orderly end, however soon it comes."""
    first = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        for loss in healthy_losses(40):
            probe.send_step(loss)
        first.await_run(lambda r: r.step == 40)
        assert first.stop() == 0
        assert rows(home, "SELECT max(step) FROM steps") == [(40,)]
        assert rows(home, "SELECT state FROM runs WHERE saved IS NOT NULL") == [("running",)]
        second = begin_agent()
        assert (run := second.run()) is not None
        assert run.step == 40


def test_a_second_agent_is_refused_and_the_first_goes_on(agent: AgentProcess) -> None:
    """Two agents at one address would steal each other's probes: the later one exits with 73."""
    second = subprocess.run(
        [sys.executable, "-m", "lossguard", "agent"], capture_output=True, text=True, check=False
    )
    assert second.returncode == 73
    assert f"an agent (pid {agent.process.pid}) already serves" in second.stderr
    assert "Traceback" not in second.stderr
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        assert agent.run() is not None


def test_shutdown_ends_the_agent(agent: AgentProcess) -> None:
    """``lossguard agent --stop`` returns when the agent has ended, and says which."""
    done = subprocess.run(
        [sys.executable, "-m", "lossguard", "agent", "--stop"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (
        0,
        f"agent {agent.process.pid} has ended; training goes on",
    )
    assert agent.process.wait(PATIENCE_S) == 0


def test_an_agent_with_nothing_to_watch_ends_by_itself(home: Home, begin_agent: BeginAgent) -> None:
    """Not while there is a run, and soon after the last one is over."""
    agent = begin_agent("--background", "--idle", "0.5")
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(1.5)
        probe.bye()
        assert agent.process.wait(PATIENCE_S) == 0
    assert "nothing to watch" in agent.log


def test_a_process_that_died_while_no_agent_was_there_is_found_dead(
    home: Home, begin_agent: BeginAgent
) -> None:
    """The next agent does not wait for ever for a process that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    first = begin_agent()
    with FakeProbe(home, hello_of(pid=gone.pid)) as probe:
        probe.join()
        probe.send_step(2.0)
        first.await_run(lambda r: r.step == 1)
    gone.wait()
    first.stop()
    second = begin_agent()
    second.await_run(lambda r: r.state == "died")


def test_a_damaged_database_is_set_aside_and_the_agent_serves(
    home: Home, begin_agent: BeginAgent
) -> None:
    """What cannot be read is kept for a person, said, and not in the way."""
    home.create()
    home.database_path.write_bytes(os.urandom(50_000))
    agent = begin_agent()
    assert agent.runs() == {}
    assert "is damaged" in agent.log
    assert list(home.state.glob("lossguard.db.damaged-*"))


def test_a_database_of_a_newer_agent_is_left_alone(home: Home) -> None:
    """The agent says that a newer one wrote it and exits with 78; the file is as it was."""
    home.create()
    with sqlite3.connect(home.database_path) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE future (x)")
    before = home.database_path.read_bytes()
    refused = subprocess.run(
        [sys.executable, "-m", "lossguard", "agent"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 78
    assert "schema 99" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert home.database_path.read_bytes() == before


def test_a_client_finds_the_next_agent_by_itself(home: Home, begin_agent: BeginAgent) -> None:
    """A viewer that stays open over a restart gets whole pictures again when it asks again."""
    first = begin_agent()
    with FakeProbe(home, hello_of()) as probe, Client(home) as viewer:
        probe.join()
        probe.send_step(2.0)
        eventually(lambda: viewer.send(feed.Subscribe()))
        eventually(lambda: isinstance(viewer.receive(0.1), feed.Picture))
        eventually(lambda: rows(home, "SELECT 1 FROM steps"))
        first.kill()
        second = begin_agent()

        def look() -> feed.Picture | None:
            viewer.send(feed.Subscribe())
            picture = viewer.receive(0.2)
            fresh = isinstance(picture, feed.Picture) and picture.agent_pid == second.process.pid
            return picture if fresh and isinstance(picture, feed.Picture) else None

        picture = eventually(look)
    assert [series.metric for series in picture.series] == ["loss"]
    assert picture.run == "run-a"
