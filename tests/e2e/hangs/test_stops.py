"""A run that stops is called by its kind, with place and stacks; one that takes long is let be."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

import lossguard
from lossguard.agent import feed
from lossguard.agent.client import Client
from tests.e2e.hangs.trainings import Trainings
from tests.support.agents import AgentProcess
from tests.support.debugger import debugger_on
from tests.support.memory_limit import memory_limited_group
from tests.support.waiting import PATIENCE_S, becomes, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

BOUND_S = 8
POLICY = f"""
base = "guard"
[[rules]]
symptom = ["hang"]
severity = "critical"
ladder = [{{ do = "stop" }}]
[hang]
after_s = {BOUND_S}
grace_s = 5
"""
STOPS = {
    "endless": ("hang", "critical", "in endless"),
    "worker_waits": ("hang", "critical", "in data at hangs/stopping.py"),
    "worker_killed": ("process_exit", "critical", "DataLoader worker"),
    "native": ("hang", "critical", "native code that holds the GIL"),
    "killed": ("process_exit", "critical", "is dead"),
    "raises": ("process_exit", "critical", "ValueError: a bad thing"),
    "denied_memory": ("process_exit", "critical", "MemoryError"),
    "exits": ("process_exit", "critical", "exit code 3"),
    "stopped": ("hang", "warning", "stopped (SIGSTOP or Ctrl-Z)"),
}
LONG = ("evaluates", "saves", "compiles", "exits_early")


@pytest.fixture
def trainings(agent: AgentProcess) -> Iterator[Trainings]:
    """Ends what it began."""
    trainings = Trainings(agent, POLICY)
    yield trainings
    trainings.end()


@pytest.fixture
def unbounded(agent: AgentProcess) -> Iterator[Trainings]:
    """Observed, with the bounds that come with Lossguard."""
    trainings = Trainings(agent, 'base = "observe"')
    yield trainings
    trainings.end()


def test_every_stop_is_called_what_it_is(trainings: Trainings, agent: AgentProcess) -> None:
    """Kind, place and what was done; and a rule of the policy ends those that hang."""
    for how in STOPS:
        trainings.begin(how, 90, LOSSGUARD_KEEP_BATCHES="1" if how == "raises" else "")
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
    (failed_in,) = folders.glob("raises-*/rank0")
    kept = lossguard.load_snapshot(failed_in)
    assert (kept["step"], kept["forwards"][0]["args"][0].shape) == (30, (4, 16))
    os.kill(trainings.processes["stopped"].pid, signal.SIGCONT)
    becomes(lambda: [one.state for one in trainings.incidents("stopped")], ["resolved"])
    assert trainings.processes["stopped"].wait(60) == 0


def test_what_only_takes_long_is_left_alone(trainings: Trainings) -> None:
    """An evaluation, a checkpoint and a compilation of more than the bound; and a run that ends
    early with exit code 0."""
    for how in LONG:
        trainings.begin(how, 1.5 * BOUND_S)
    for how in LONG:
        assert trainings.processes[how].wait(100) == 0, how
        assert trainings.incidents(how) == [], how


@pytest.mark.slow
def test_a_person_in_a_debugger_is_left_alone(trainings: Trainings, agent: AgentProcess) -> None:
    """Where the script waits for one (``breakpoint()``), and where one has halted the process; both
    for longer than a run takes that only takes long."""
    for how in ("debugs", "held", "evaluates"):
        trainings.begin(how, 2.0 * BOUND_S)
    trainings.await_stop("debugs")
    trainings.await_stop("held")
    with debugger_on(trainings.processes["held"].pid):
        assert trainings.processes["evaluates"].wait(100) == 0
        for how, place in {"debugs": "in a debugger at hangs/stop", "held": "held by a"}.items():
            assert place in eventually(lambda how=how: debugger_words(agent, how))  # type: ignore[misc]
    trainings.processes["debugs"].stdin.write("continue\n")
    trainings.processes["debugs"].stdin.flush()
    for how in ("debugs", "held"):
        assert trainings.processes[how].wait(60) == 0, how
        assert trainings.incidents(how) == [], how


def debugger_words(agent: AgentProcess, how: str) -> str:
    """What the log of the run says about one."""
    with Client(agent.home) as viewer:
        eventually(lambda: viewer.send(feed.Subscribe(run=how)))
        picture = viewer.receive(PATIENCE_S)
    assert isinstance(picture, feed.Picture)
    return " ".join(line.message for line in picture.events if line.kind == "debugger")


def test_a_kill_for_want_of_memory_is_called_so(trainings: Trainings) -> None:
    """By the kernel, in a group of processes with a limit; and another process that is killed at
    that time is not taken for one."""
    with memory_limited_group(700 << 20) as group:
        if group is None:
            pytest.skip("no group with a memory limit can be made here")
        limited = trainings.begin("out_of_memory", group=group)
        other = trainings.begin("killed")
        assert limited.wait(60) == other.wait(60) == -signal.SIGKILL
        (found,) = eventually(lambda: trainings.incidents("out_of_memory"))
        (another,) = eventually(lambda: trainings.incidents("killed"))
    assert (found.symptom, found.severity) == ("process_exit", "critical")
    assert "the kernel ran out of memory meanwhile" in found.message
    assert "out of memory" not in another.message


@pytest.mark.slow
def test_an_agent_that_sleeps_calls_nobody_hung(trainings: Trainings, agent: AgentProcess) -> None:
    """Longer than the bound; and a training that hangs when it wakes is still found."""
    trainings.begin("nothing", 0, 0.5)
    endless = trainings.begin("endless", 0, 0.5)
    trainings.await_stop("nothing")
    agent.process.send_signal(signal.SIGSTOP)
    assert trainings.processes["nothing"].wait(60) == 0  # 15 s
    agent.process.send_signal(signal.SIGCONT)
    (found,) = eventually(lambda: trainings.incidents("endless"), 60.0)
    assert "in endless" in found.message
    assert found.evidence["lasted_s"] < BOUND_S + 4.0
    assert "hang" not in [line.symptom for line in trainings.incidents("nothing")]
    assert endless.wait(60) in (-signal.SIGTERM, -signal.SIGKILL)


@pytest.mark.slow
def test_by_its_own_bounds_it_waits_for_what_takes_long(unbounded: Trainings) -> None:
    """An evaluation of 30 s, a checkpoint of 20 s, 40 s in C++ compilers where there are any."""
    compiles = "compiles_for_real" if shutil.which("g++") else "compiles"
    for how, seconds in {"evaluates": 30, "saves": 20, compiles: 40}.items():
        unbounded.begin(how, seconds)
    for how, process in unbounded.processes.items():
        assert process.wait(300) == 0, how
        assert unbounded.incidents(how) == [], how


@pytest.mark.slow
def test_by_its_own_bounds_it_calls_a_hang_within_half_a_minute(unbounded: Trainings) -> None:
    """40 s in native code that holds the GIL, with steps of half a second; and it goes on."""
    unbounded.begin("native", 40, 0.5)
    unbounded.await_stop("native")
    (found,) = eventually(lambda: unbounded.incidents("native"), 30.0)
    assert "native code that holds the GIL" in found.message
    becomes(lambda: [one.state for one in unbounded.incidents("native")], ["resolved"], 40.0)
