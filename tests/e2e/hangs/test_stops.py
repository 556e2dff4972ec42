"""A run that stops is called by its kind, with place and stacks; one that takes long is let be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.agent import feed
from lossguard.agent.client import Client
from tests.support.agents import AgentProcess
from tests.support.waiting import becomes, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).with_name("stopping.py")
POLICY = """
base = "guard"
[[rules]]
symptom = ["hang"]
severity = "critical"
ladder = [{ do = "stop" }]
[hang]
after_s = 8
grace_s = 5
"""
STOPS = {
    "endless": ("hang", "critical", "in endless"),
    "worker_waits": ("hang", "critical", "in data at hangs/stopping.py"),
    "worker_killed": ("process_exit", "critical", "DataLoader worker"),
    "native": ("hang", "critical", "native code that holds the GIL"),
    "killed": ("process_exit", "critical", "is dead"),
    "raises": ("process_exit", "critical", "ValueError: a bad thing"),
    "exits": ("process_exit", "critical", "exit code 3"),
    "stopped": ("hang", "warning", "stopped (SIGSTOP or Ctrl-Z)"),
}
LONG = ("evaluates", "saves", "nothing")


class Trainings:
    """Processes of one test, by how they stop."""

    def __init__(self, folder: Path, agent: AgentProcess) -> None:
        self._policy = folder / "policy.toml"
        self._policy.write_text(POLICY)
        self._agent = agent
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, how: str) -> None:
        """Watched, in a process of its own."""
        command = [sys.executable, "-m", "lossguard", "run", "--policy", str(self._policy)]
        self.processes[how] = subprocess.Popen(
            [*command, "--name", how, str(SCRIPT), how],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def incidents(self, how: str) -> list[feed.IncidentLine]:
        """Of the run of that name: those of a stop, for what it learns is none of this."""
        with Client(self._agent.home) as client:
            answer = client.request(feed.ListIncidents(run=how))
        lines = answer.incidents if isinstance(answer, feed.IncidentList) else []
        return [line for line in lines if line.symptom in ("hang", "process_exit")]

    def end(self) -> None:
        """Whoever is still there."""
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def trainings(tmp_path: Path, agent: AgentProcess) -> object:
    """Ends what it began."""
    trainings = Trainings(tmp_path, agent)
    yield trainings
    trainings.end()


def test_every_stop_is_called_what_it_is(trainings: Trainings, agent: AgentProcess) -> None:
    """Kind, place and what was done; and a rule of the policy ends those that hang."""
    for how in STOPS:
        trainings.begin(how)
    for how, (symptom, severity, words) in STOPS.items():
        (found,) = eventually(lambda how=how: trainings.incidents(how), 100.0)  # type: ignore[misc]
        assert (found.symptom, found.severity) == (symptom, severity), (how, found)
        assert words in found.message, (how, found)
        assert found.onset_step in (28, 29, 30), (how, found)
    for how in ("endless", "worker_waits", "native"):
        assert trainings.processes[how].wait(60) in (-signal.SIGTERM, -signal.SIGKILL), how
    folders = agent.home.state / "incidents"
    for how, line in {"endless": "endless (", "worker_waits": "__getitem__"}.items():
        (stacks,) = folders.glob(f"{how}-*/stacks.txt")
        assert line in stacks.read_text(), how
    assert len(list(folders.glob("raises-*/steps.csv"))) == 1
    os.kill(trainings.processes["stopped"].pid, signal.SIGCONT)
    becomes(lambda: [one.state for one in trainings.incidents("stopped")], ["resolved"])
    assert trainings.processes["stopped"].wait(60) == 0


def test_what_only_takes_long_is_left_alone(trainings: Trainings) -> None:
    """An evaluation and a checkpoint of more than the bound, and a plain run."""
    for how in LONG:
        trainings.begin(how)
    for how in LONG:
        assert trainings.processes[how].wait(100) == 0, how
        assert trainings.incidents(how) == [], how
