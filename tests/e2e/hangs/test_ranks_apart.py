"""A rank that is slow, or no longer equal to its replicas, is named; and none of equals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lossguard.agent import feed
from tests.e2e.hangs.ranks_apart import FLIPPED_AT, STEPS
from tests.support.agents import AgentProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[3]
SAMPLED_EVERY = 16


def incidents(
    agent: AgentProcess, world: int, *cases: str
) -> Mapping[str, list[feed.IncidentLine]]:
    """What is said of each, once all of it has been judged."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("LOSSGUARD")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.hangs.ranks_apart", str(world), *cases],
        cwd=ROOT,
        env={**known, "LOSSGUARD_HOME": str(agent.home.state.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = {}
    for case in cases:
        seen = agent.await_run(lambda run: run.state == "finished", case)
        assert seen.step == STEPS
        answer = agent.ask(feed.ListIncidents(run=case))
        assert isinstance(answer, feed.IncidentList)
        said[case] = answer.incidents
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


@pytest.mark.slow
def test_a_rank_at_half_speed_is_named_with_what_it_does(agent: AgentProcess) -> None:
    """Computing, or waiting for its data."""
    said = incidents(agent, 3, "slow", "starved")
    for case, does in {"slow": "computing", "starved": "waiting for its data"}.items():
        (found,) = said[case]
        assert (found.symptom, found.severity, found.where) == ("straggler", "warning", "rank 1")
        assert found.message.endswith(does), found
