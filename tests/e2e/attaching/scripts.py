"""Small scripts in a folder of their own, run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from lossguard.agent import feed
from tests.support.agents import AgentProcess
from tests.support.warm_python import Program

WATCHED = ("-m", "lossguard", "run")

TRAINS = """
import json, os, sys, torch
torch.manual_seed(0)
torch.set_num_threads(1)
data = torch.randn(48, 8)
losses = []

def train(steps=6, batches=None):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):
        batch = data[step % 6 * 8:][:8] if batches is None else next(batches)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(batch), batch.sum(1, keepdim=True))
        loss.backward()
        optimizer.step()
        losses.append(loss.item().hex())
"""
"""What many of them begin with: ``train`` notes its losses to the last bit."""


class Ended:
    """How a process ended; what we said ourselves is apart from its stderr."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        lines = stderr.splitlines()
        self.stderr = [line for line in lines if not line.startswith("lossguard: ")]
        self.said = [line for line in lines if line.startswith("lossguard: ")]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ended) and self._all == other._all

    def __hash__(self) -> int:
        return hash(self.code)

    @property
    def _all(self) -> tuple[int, str, list[str]]:
        return self.code, self.stdout, self.stderr

    def __repr__(self) -> str:
        return f"Ended{self._all}"


class Scripts:
    """Writes them and runs them."""

    def __init__(self, folder: Path, agent: AgentProcess, python: str) -> None:
        self.folder = folder
        self.agent = agent
        self.python = python
        self._begun: list[subprocess.Popen[str] | Program] = []

    def write(self, name: str, text: str, *, begin: str = "") -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(begin + textwrap.dedent(text))
        return path

    def begin(
        self, *command: str, python: str | None = None, **settings: str
    ) -> subprocess.Popen[str]:
        """``python command`` with ``settings`` in its environment."""
        environment = {**os.environ, **settings}
        process = subprocess.Popen(
            [python or self.python, *command],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._begun.append(process)
        return process

    def begin_warm(self, *command: str, **settings: str) -> Program:
        """The same by a Python that has loaded torch before: for when how it is loaded is not what
        the test is about."""
        program = Program(command, cwd=self.folder, env={**os.environ, **settings})
        self._begun.append(program)
        return program

    def kill_all(self) -> None:
        """Those that a test has left, because it failed."""
        for process in self._begun:
            if process.returncode is None:
                process.kill()
                process.communicate()

    def run(self, *command: str, **settings: str) -> Ended:
        """The same, to its end; a line is waiting on its stdin."""
        return end(self.begin(*command, **settings))

    def run_warm(self, *command: str, **settings: str) -> Ended:
        """``begin_warm``, to its end."""
        return end(self.begin_warm(*command, **settings))

    def runs(self) -> list[feed.RunSummary]:
        """What the agent knows."""
        return list(self.agent.runs().values())

    def lossguard(self, *command: str) -> Ended:
        """A command of ours."""
        return end(self.begin("-m", "lossguard", *command, python=sys.executable))


def end(process: subprocess.Popen[str] | Program) -> Ended:
    """Wait for it."""
    stdout, stderr = process.communicate("a line\n", timeout=100)
    return Ended(process.wait(), stdout, stderr)
