"""The same trainings as scripts: ``lossguard run`` on them, and a real agent over real sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.agent import feed
from lossguard.home import Home
from tests.support.agents import AgentProcess

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
ONE_OF_EACH_FAMILY = (
    "fp16_overflow",
    "poisoned_batch",
    "shifted_labels",
    "dead_network",
    "forgotten_eval",
    "tiny_weights",
    "dead_relus",
    "collapsing_scale",
    "repeated_character",
)
OFTEN = ("forgotten_eval",)
"""In every run of the tests, and its twin; the others with the long ones."""


def of_these(*names: str) -> list[object]:
    """As parameters."""
    return [pytest.param(n, marks=[] if n in OFTEN else [pytest.mark.slow]) for n in names]


SHORT_OF_PATIENCE = """
[detectors.no_checkpoint]
max_age_s = 2.0
warn_age_s = 4.0
"""


def run_watched(home: Home, name: str, *more: str, options: tuple[str, ...] = ()) -> str:
    """``lossguard run`` on one scenario, which itself knows nothing of Lossguard."""
    command = [sys.executable, "-m", "lossguard", "run", *options]
    done = subprocess.run(
        [*command, "-m", "tests.scenarios", name, "--bare", *more],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "LOSSGUARD_HOME": str(home.state.parent),
            "LOSSGUARD_RUN": name,
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(agent: AgentProcess, name: str) -> dict[str, feed.IncidentLine]:
    """The incidents that are worth a look, by every symptom they were found as."""
    agent.await_run(lambda run: run.state == "finished", name)
    lines = [line for line in agent.incidents(name) if line.severity != "info"]
    return {symptom: line for line in lines for symptom in (line.symptom, *line.also)}


@pytest.mark.parametrize("name", of_these(*ONE_OF_EACH_FAMILY))
def test_an_unchanged_script_is_told_what_is_wrong(
    name: str, home: Home, agent: AgentProcess
) -> None:
    """The incident carries the symptom, and dates it no earlier than its cause."""
    from tests.scenarios.catalogue import SCENARIOS

    begins = int(run_watched(home, name).split()[-1])
    lines = told(agent, name)
    symptom = str(SCENARIOS[name].symptom)
    assert symptom in lines, lines
    assert begins <= lines[symptom].detected_step <= begins + SCENARIOS[name].within


@pytest.mark.parametrize("name", of_these("shifted_labels", "forgotten_eval"))
def test_an_unchanged_healthy_script_is_left_alone(
    name: str, home: Home, agent: AgentProcess
) -> None:
    """Neither a warning nor anything critical."""
    run_watched(home, name, "--healthy")
    assert not told(agent, name)


@pytest.mark.slow
def test_time_is_measured_by_real_clocks(home: Home, agent: AgentProcess, tmp_path: Path) -> None:
    """A slow disk is found by the real waits, and a user who can afford to lose four seconds is
    told of the missing checkpoint."""
    policy = tmp_path / "policy.toml"
    policy.write_text(SHORT_OF_PATIENCE)
    run_watched(home, "slow_disk", options=("--policy", str(policy)))
    assert {"data_starved", "no_checkpoint"} <= told(agent, "slow_disk").keys()
