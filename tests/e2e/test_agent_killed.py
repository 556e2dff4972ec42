"""The agent dies in the middle of a run: training does not notice, and is found again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lossguard.agent.launching import ensure_agent
from lossguard.home import Home
from lossguard.probes.launch import agent_is_running
from tests.e2e.live import EndlessTraining, actions, incidents, newest_step, runs
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def steps_of(training: EndlessTraining) -> int:
    """As it says itself."""
    return sum(line.startswith("step ") for line in training.text().splitlines())


def test_training_survives_a_killed_agent_and_the_next_one_finds_it(
    tmp_path: Path, own_home: Home
) -> None:
    """kill -9: the run goes on, starts another agent, and the same run continues there."""
    first = ensure_agent(own_home).agent_pid
    training = EndlessTraining(tmp_path, own_home, watched=["--guard"])
    eventually(lambda: newest_step(own_home) > 40)
    name = runs(own_home)[0].run
    os.kill(first, signal.SIGKILL)
    at = steps_of(training)
    eventually(lambda: steps_of(training) > at + 5)
    # Nobody but the training process itself starts the next agent here.
    eventually(lambda: agent_is_running(own_home), 60.0)
    eventually(lambda: newest_step(own_home) > 60, 60.0)
    assert ensure_agent(own_home).agent_pid != first
    training.tell("nan")
    eventually(lambda: "skip" in actions(incidents(own_home)))
    training.tell("rate")
    eventually(lambda: "rollback" in actions(incidents(own_home)))
    training.tell("end")
    assert training.wait() == 0, training.text()[-2000:]
    eventually(lambda: runs(own_home)[0].state == "finished")
    (run,) = runs(own_home)
    assert run.run == name
    assert run.step == steps_of(training)


def test_a_stopped_agent_does_not_hold_training_up(tmp_path: Path, own_home: Home) -> None:
    """SIGSTOP: the agent takes nothing in any more, and the loop runs to its end all the same."""
    agent = ensure_agent(own_home).agent_pid
    training = EndlessTraining(tmp_path, own_home, watched=[])
    eventually(lambda: newest_step(own_home) > 5)
    os.kill(agent, signal.SIGSTOP)
    try:
        at = steps_of(training)
        eventually(lambda: steps_of(training) > at + 200, 60.0)
        training.tell("end")
        assert training.wait() == 0, training.text()[-2000:]
    finally:
        os.kill(agent, signal.SIGCONT)
