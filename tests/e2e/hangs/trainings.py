"""Trainings in processes of their own, watched by one agent, each stopping in its own way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lossguard.agent import feed
from tests.support.agents import AgentProcess

SCRIPT = Path(__file__).with_name("stopping.py")


class Trainings:
    """``stopping.py`` under ``lossguard run``, by how it stops."""

    def __init__(self, agent: AgentProcess, policy: str) -> None:
        self._agent = agent
        self._policy = agent.home.state.parent / "policy.toml"
        self._policy.write_text(policy)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(
        self, how: str, *args: float, group: Path | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Watched, in a group of processes if there is one; its standard input is a pipe that
        nobody writes to."""
        enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]
        command = [
            *(enter if group else []),
            sys.executable,
            "-m",
            "lossguard",
            "run",
            "--policy",
            str(self._policy),
        ]
        process = subprocess.Popen(
            [*command, "--name", how, str(SCRIPT), how, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", **environment},
        )
        self.processes[how] = process
        return process

    def await_stop(self, how: str) -> None:
        """Until it is where it stops; or its output ends, for it has stopped before."""
        output = self.processes[how].stdout
        assert output is not None
        assert output.readline() in (b"here\n", b""), how

    def incidents(self, how: str) -> list[feed.IncidentLine]:
        """Of the run of that name: those of a stop, for what it learns is none of this."""
        answer = self._agent.ask(feed.ListIncidents(run=how))
        lines = answer.incidents if isinstance(answer, feed.IncidentList) else []
        return [line for line in lines if line.symptom in ("hang", "process_exit")]

    def end(self) -> None:
        """Whoever is still there, with the workers that load its data."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
