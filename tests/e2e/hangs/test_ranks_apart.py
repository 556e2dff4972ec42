"""A rank that is slow, or no longer equal to its replicas, is named; and none of equals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from torch._C import _distributed_c10d

from lossguard.agent import feed
from tests.e2e.hangs.ranks_apart import ASLEEP_AT, FLIPPED_AT, STEPS
from tests.e2e.ranks.jobs import ROOT, environment, run_job
from tests.support.agents import AgentProcess
from tests.support.waiting import eventually
from tests.support.warm_python import Program

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SAMPLED_EVERY = 16


def incidents(
    agent: AgentProcess, world: int, *cases: str
) -> Mapping[str, list[feed.IncidentLine]]:
    """What is said of each, once all of it has been judged."""
    run_job(
        *("-m", "tests.e2e.hangs.ranks_apart", str(world), *cases),
        env=environment(agent.home.state.parent),
        timeout_s=200,
    )
    said = {}
    for case in cases:
        seen = agent.await_run(lambda run: run.state == "finished", case)
        assert seen.step == STEPS
        said[case] = agent.incidents(case)
    return said


def test_a_flipped_bit_is_named_within_a_sampling_interval(agent: AgentProcess) -> None:
    """Of three ranks the one that has it, and since when; and nothing is said of the twin."""
    said = incidents(agent, 3, "alike", "flipped")
    assert said["alike"] == []
    (found,) = said["flipped"]
    assert (found.symptom, found.severity, found.where) == ("rank_desync", "critical", "rank 1")
    assert "differ from those of 2 other ranks" in found.message
    assert FLIPPED_AT - SAMPLED_EVERY < found.onset_step <= FLIPPED_AT
    assert found.detected_step <= FLIPPED_AT + SAMPLED_EVERY + 1


@pytest.fixture
def asleep(agent: AgentProcess) -> Iterator[Callable[[int], None]]:
    """Begins a training of so many ranks of which one sleeps; ends it with the test."""
    policy = agent.home.state.parent / "policy.toml"
    policy.write_text('base = "observe"\n[hang]\nafter_s = 3\n')
    begun: list[Program] = []

    def begin(world: int) -> None:
        begun.append(
            Program(
                ["-m", "tests.e2e.hangs.ranks_apart", str(world), "asleep"],
                cwd=ROOT,
                env=environment(agent.home.state.parent, LOSSGUARD_POLICY=str(policy)),
                output=agent.home.state.parent / "output.txt",
            )
        )

    yield begin
    for process in begun:
        for rank in psutil.Process(process.pid).children(recursive=True):
            rank.kill()
        process.kill()
        process.wait()


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_rank_that_sleeps_is_named_with_those_that_wait_for_it(
    agent: AgentProcess, asleep: Callable[[int], None], world: int
) -> None:
    """In its data, while the others are in all_reduce; with the stacks of all of them, and what
    torch has recorded: they have begun a collective that it has not."""
    asleep(world)

    def look() -> list[feed.IncidentLine]:
        answer = agent.ask(feed.ListIncidents(run="asleep"))
        lines = answer.incidents if isinstance(answer, feed.IncidentList) else []
        return [line for line in lines if line.symptom == "hang"]

    (found,) = eventually(look, 60.0)
    assert found.severity == "critical"
    assert found.onset_step == ASLEEP_AT - 1
    others = {2: "rank 0 waits for it", 4: "ranks 0, 2 and 3 wait for it"}[world]
    assert "rank 1 is in data at" in found.message, found
    assert others in found.message, found
    folder = agent.home.state / "incidents" / found.id
    for rank in range(world):
        (stacks,) = eventually(lambda rank=rank: list(folder.glob(f"stacks-rank{rank}-*")), 60.0)  # type: ignore[misc]
        assert ("time.sleep" if rank == 1 else "all_reduce") in stacks.read_text()
    if hasattr(_distributed_c10d, "_dump_fr_trace_json"):
        begun = {rank: newest_collective(folder, rank) for rank in range(world)}
        assert all(begun[rank] > begun[1] for rank in begun if rank != 1), begun


def newest_collective(folder: Path, rank: int) -> int:
    """The number of the last one that a rank has begun, in what torch has recorded."""
    (path,) = eventually(lambda: list(folder.glob(f"flight_recorder-rank{rank}-*")), 60.0)
    entries = json.loads(path.read_text().splitlines()[-1])["entries"]
    return max(int(entry["collective_seq_id"]) for entry in entries)


@pytest.mark.slow
def test_a_rank_at_half_speed_is_named_with_what_it_does(agent: AgentProcess) -> None:
    """Computing, or waiting for its data."""
    said = incidents(agent, 3, "slow", "starved")
    for case, does in {"slow": "computing", "starved": "waiting for its data"}.items():
        (found,) = said[case]
        assert (found.symptom, found.severity, found.where) == ("straggler", "warning", "rank 1")
        assert found.message.endswith(does), found
