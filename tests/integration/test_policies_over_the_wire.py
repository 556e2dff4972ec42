"""A policy travels in the hello: an agent on another machine needs none of the run's files."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from lossguard.probes import wire
from lossguard.probes.wire import Limits
from tests.support.agents import AgentProcess, BeginAgent
from tests.support.probe import FakeProbe, hello_of
from tests.support.waiting import eventually

BOUND = 'name = "mine"\nbase = "guard"\n[detectors.grad_spike]\nhard_bound = 7.0\n'


def bound_after_a_step(agent: AgentProcess, hello: wire.Hello) -> float | None:
    """What the agent would have the probe veto once it has seen one healthy step."""
    with FakeProbe(agent.home, hello, names=("loss", "grad_norm")) as probe:
        probe.join()
        probe.send_step(2.5, 1.25)
        probe.beat()
        probe.await_message(wire.Welcome)
        limits = [message for message in probe.heard if isinstance(message, Limits)]
    return limits[-1].grad_norm


def is_in_the_database(agent: AgentProcess, run: str) -> bool:
    """Whether the agent has committed it."""
    path = f"file:{agent.home.database_path}?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as database:
        return bool(database.execute("SELECT 1 FROM runs WHERE run = ?", (run,)).fetchall())


def test_a_bound_in_the_policy_reaches_the_probe(agent: AgentProcess) -> None:
    """From the first step on; without the policy nobody knows one so early."""
    assert bound_after_a_step(agent, hello_of("run-mine", policy_text=BOUND)) == 7.0
    assert bound_after_a_step(agent, hello_of("run-plain")) is None
    assert agent.runs()["run-mine"].policy == "mine"


def test_a_probe_that_may_only_watch_is_only_watched(agent: AgentProcess) -> None:
    """Whatever the text says: no limits, and people see that nothing is done."""
    with FakeProbe(agent.home, hello_of(policy="observe", policy_text=BOUND)) as probe:
        probe.join()
        probe.send_step(2.5)
        run = agent.await_run(lambda run: run.step == 1)
        probe.beat()
        probe.await_message(wire.Welcome)
        assert not [message for message in probe.heard if isinstance(message, Limits)]
    assert run.policy == "observe"


def test_a_probe_that_was_told_to_act_is_judged_by_the_same_settings(agent: AgentProcess) -> None:
    """``--guard`` with a file that only observes."""
    text = BOUND.replace('"guard"', '"observe"')
    assert bound_after_a_step(agent, hello_of("run-mine", policy_text=text)) == 7.0
    assert agent.runs()["run-mine"].policy == "guard"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOUND.replace("hard_bound", "hard_bond"), "the run's policy:4: .* 'hard_bound'"),
        ("base = \n", "the run's policy:1: is no TOML"),
        ("#" * 70_000, "longer than 64 KiB"),
        ("a = " + "[" * 60_000, "nested too deep"),
    ],
)
def test_a_policy_that_is_not_valid_is_refused_with_the_reason(
    agent: AgentProcess, text: str, why: str
) -> None:
    """The agent lives on, and takes the next run."""
    with FakeProbe(agent.home, hello_of("run-bad", policy_text=text)) as probe:
        probe.say(probe.hello)
        refused = probe.await_message(wire.Refused)
    assert re.search(why, refused.why), refused.why
    with FakeProbe(agent.home, hello_of("run-good")) as probe:
        probe.join()
        probe.send_step(2.5)
        agent.await_run(lambda run: run.step == 1, "run-good")
    assert list(agent.runs()) == ["run-good"]


def test_a_name_is_never_taken_for_a_path(agent: AgentProcess) -> None:
    """What comes over a socket opens no file."""
    for name in ("/etc/passwd", "../policies/guard", "guard.toml"):
        with FakeProbe(agent.home, hello_of("run-path", policy=name)) as probe:
            probe.say(probe.hello)
            assert "there is no policy" in probe.await_message(wire.Refused).why


def test_the_policy_survives_the_agent(agent: AgentProcess, begin_agent: BeginAgent) -> None:
    """Another agent judges the run by the same settings."""
    hello = hello_of("run-mine", policy_text=BOUND)
    with FakeProbe(agent.home, hello, names=("loss", "grad_norm")) as probe:
        probe.join()
        probe.send_step(2.5, 1.25)
        agent.await_run(lambda run: run.step == 1, "run-mine")
        eventually(lambda: is_in_the_database(agent, "run-mine"))
    agent.kill()
    again = begin_agent()
    assert again.runs()["run-mine"].policy == "mine"
    assert bound_after_a_step(again, hello) == 7.0
