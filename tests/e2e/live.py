"""Real trainings in real processes, and what the agent knows of them."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path
from typing import Any

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.home import Home
from lossguard.probes.launch import agent_is_running
from tests.support.waiting import eventually
from tests.support.warm_python import Program

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_gpt.py"
ENDLESS = Path(__file__).with_name("endless_training.py")
_SMALL = ("--batch-size", "4", "--block-size", "32", "--threads", "1", "--print-every", "1")


class Training:
    """``train_gpt.py`` in a process of its own, plain or under ``lossguard run``."""

    script = EXAMPLE

    def __init__(self, folder: Path, home: Home, *own: str, watched: list[str] | None) -> None:
        self.folder = folder
        self.result = folder / "result.json"
        self.output = folder / "output.txt"
        prefix = [] if watched is None else ["-m", "lossguard", "run", *watched]
        self.process = Program(
            [*prefix, self.script, *self._settings(), *own],
            output=self.output,
            cwd=folder,
            env={**os.environ, "LOSSGUARD_HOME": str(home.state.parent)},
        )
        weakref.finalize(self, self.process.kill)  # a test that failed leaves nothing running

    def _settings(self) -> list[str]:
        return [*_SMALL, "--json", str(self.result)]

    def wait(self, timeout_s: float = 100.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def results(self) -> dict[str, Any]:
        """What the script wrote at its end."""
        found: dict[str, Any] = json.loads(self.result.read_text())
        return found


class EndlessTraining(Training):
    """``endless_training.py``, until it is told to end."""

    script = ENDLESS

    def tell(self, word: str) -> None:
        """``nan``, ``rate`` or ``end``: as soon as it looks."""
        (self.folder / word).touch()

    def _settings(self) -> list[str]:
        return []


def runs(home: Home) -> list[feed.RunSummary]:
    """Newest first."""
    with Client(home) as client:
        answer = client.request(feed.ListRuns(), timeout_s=20.0)
    assert isinstance(answer, feed.RunList)
    return answer.runs


def incidents(home: Home, run: str = "") -> list[feed.IncidentLine]:
    """Oldest first."""
    with Client(home) as client:
        answer = client.request(feed.ListIncidents(run=run), timeout_s=20.0)
    assert isinstance(answer, feed.IncidentList), answer
    return answer.incidents


def newest_step(home: Home) -> int:
    known = runs(home)
    return known[0].step if known else 0


def actions(lines: list[feed.IncidentLine]) -> list[str]:
    """What was done, in order."""
    return [action.action for line in lines for action in line.actions]


def end_agent(home: Home) -> None:
    """If one is there; until it is gone."""
    if agent_is_running(home):
        with Client(home) as client:
            eventually(lambda: client.send(feed.Shutdown()))
        eventually(lambda: not agent_is_running(home))
