"""Trainings in processes of their own, watched by one agent, each stopping in its own way."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from lossguard.agent import feed
from tests.support.agents import AgentProcess
from tests.support.warm_python import Program

SCRIPT = Path(__file__).with_name("stopping.py")


class Trainings:
    """``stopping.py`` under ``lossguard run``, by how it stops."""

    def __init__(self, agent: AgentProcess, policy: str) -> None:
        self._agent = agent
        self._policy = agent.home.state.parent / "policy.toml"
        self._policy.write_text(policy)
        self.processes: dict[str, Program] = {}

    def begin(
        self, how: str, *args: float, group: Path | None = None, **environment: str
    ) -> Program:
        """Watched, in a group of processes if there is one; its standard input is a pipe that
        nobody writes to."""
        watched = ("-m", "lossguard", "run", "--policy", self._policy, "--name", how)
        process = Program(
            [*watched, SCRIPT, how, *map(str, args)],
            env={**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", **environment},
        )
        self.processes[how] = process
        if group is not None:
            (group / "cgroup.procs").write_text(str(process.pid))
        return process

    def await_stop(self, how: str) -> None:
        """Until it is where it stops; or its output ends, for it has stopped before."""
        assert self.processes[how].stdout.readline() in ("here\n", ""), how

    def incidents(self, how: str) -> list[feed.IncidentLine]:
        """Of the run of that name: those of a stop, for what it learns is none of this."""
        answer = self._agent.ask(feed.ListIncidents(run=how))
        lines = answer.incidents if isinstance(answer, feed.IncidentList) else []
        return [line for line in lines if line.symptom in ("hang", "process_exit")]

    def end(self) -> None:
        """Whoever is still there, with the workers that load its data."""
        for process in self.processes.values():
            process.kill()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()
