"""An agent in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.errors import AgentUnreachable
from lossguard.home import Home
from tests.support.waiting import PATIENCE_S, eventually


class AgentProcess:
    """``python -m lossguard agent`` in a home of its own; what it says is in ``log``."""

    def __init__(self, home: Home, *options: str) -> None:
        self.home = home
        home.create()
        self._log_path = Path(home.logs) / "test-agent.log"
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lossguard", "agent", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        """Everything that this and earlier agents of the home said."""
        return self._log_path.read_text()

    def await_ready(self) -> AgentProcess:
        """Wait until it answers."""

        def look() -> bool:
            assert self.process.poll() is None, f"the agent ended:\n{self.log}"
            with Client(self.home) as client:
                try:
                    answer = client.request(feed.Ping(), timeout_s=0.5)
                except AgentUnreachable:
                    return False
            return isinstance(answer, feed.Pong) and answer.agent_pid == self.process.pid

        eventually(look)
        return self

    def kill(self) -> None:
        """As by ``kill -9``."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """As by ``kill``; its exit code. Idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def ask(self, message: feed.FeedMessage) -> feed.FromAgent:
        """One request of a viewer."""
        with Client(self.home) as client:
            return client.request(message, timeout_s=PATIENCE_S)

    def runs(self) -> dict[str, feed.RunSummary]:
        """What ``lossguard runs`` would show, by id."""
        answer = self.ask(feed.ListRuns())
        assert isinstance(answer, feed.RunList)
        return {run.run: run for run in answer.runs}

    def run(self, name: str = "run-a") -> feed.RunSummary | None:
        """One run."""
        return self.runs().get(name)

    def await_run(
        self, is_so: Callable[[feed.RunSummary], bool], name: str = "run-a"
    ) -> feed.RunSummary:
        """The run as soon as this is so."""

        def look() -> feed.RunSummary | None:
            run = self.run(name)
            return run if run is not None and is_so(run) else None

        return eventually(look)

    def incidents(self, name: str = "run-a") -> list[feed.IncidentLine]:
        """What ``lossguard incidents`` would show."""
        answer = self.ask(feed.ListIncidents(run=name))
        assert isinstance(answer, feed.IncidentList), answer
        return answer.incidents


BeginAgent = Callable[..., AgentProcess]
"""One more agent of the test's home, with these options."""


@contextmanager
def answering(agent: AgentProcess, *, shows_log: bool = True) -> Iterator[AgentProcess]:
    """As soon as it answers; it ends with the block. What it and others of its home said is shown
    when the test fails."""
    try:
        yield agent.await_ready()
    finally:
        agent.stop()
        if shows_log:
            sys.stderr.write(agent.log)
