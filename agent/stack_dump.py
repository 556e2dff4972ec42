"""The stacks of processes that stand still, read from outside by py-spy.

Works where the interpreter's lock is held for good, too. Needs the right to trace the process: the
same user and ``kernel.yama.ptrace_scope`` 0, or root. Nothing here waits.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_PATIENCE_S = 20.0
_MOST_PROCESSES = 17
"""The training process and its first so many workers."""


@dataclass(frozen=True, slots=True)
class Target:
    """A process to be looked at."""

    title: str
    pid: int


@dataclass
class _Job:
    path: Path
    incident: str
    targets: deque[Target]
    native: bool = True
    process: subprocess.Popen[bytes] | None = None
    begun_s: float = 0.0
    seen: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Dumped:
    """What came of it."""

    incident: str
    path: Path
    num_seen: int
    trouble: str
    """Why some process could not be looked at; empty where all could."""


class StackDumps:
    """One py-spy at a time."""

    def __init__(self) -> None:
        beside = Path(sys.executable).with_name("py-spy")
        self._tool = str(beside) if beside.exists() else shutil.which("py-spy")
        self._jobs: deque[_Job] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether there is still something to be read."""
        return bool(self._jobs)

    def begin(self, incident: str, path: Path, targets: list[Target]) -> None:
        """Look at these processes, as soon as those before are done. Appends to ``path``."""
        self._jobs.append(_Job(path, incident, deque(targets[:_MOST_PROCESSES])))

    def poll(self, now: float) -> list[Dumped]:
        """Go on; what is done by now. Times are monotonic [s]."""
        done = []
        while self._jobs:
            job = self._jobs[0]
            if job.process is not None and not self._ended(job, now):
                break
            if not job.targets:
                done.append(Dumped(job.incident, job.path, job.seen, job.trouble))
                self._jobs.popleft()
                continue
            self._start(job, now)
        return done

    def close(self) -> None:
        """End what runs. Idempotent."""
        for job in self._jobs:
            if job.process is not None:
                job.process.kill()
                job.process.wait()
        self._jobs.clear()

    def _start(self, job: _Job, now: float) -> None:
        target = job.targets[0]
        if self._tool is None:
            job.trouble = "py-spy is not installed"
            job.targets.clear()
            return
        extra = ["--native"] if job.native else []
        try:
            job.path.parent.mkdir(parents=True, exist_ok=True)
            with job.path.open("ab") as file:
                file.write(f"=== {target.title}, pid {target.pid}\n".encode())
                file.flush()
                job.process = subprocess.Popen(
                    [self._tool, "dump", "--pid", str(target.pid), *extra],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            job.begun_s = now
        except OSError as error:
            job.trouble = str(error)
            job.targets.clear()

    def _ended(self, job: _Job, now: float) -> bool:
        assert job.process is not None
        code = job.process.poll()
        if code is None:
            if now - job.begun_s <= _PATIENCE_S:
                return False
            job.process.kill()
            job.process.wait()
            code = -1
        job.process = None
        if code != 0 and job.native:
            job.native = False  # without the frames of native code, then
            return True
        job.native = True
        target = job.targets.popleft()
        if code == 0:
            job.seen += 1
        else:
            job.trouble = f"py-spy could not read pid {target.pid} (exit code {code})"
            log.warning("%s", job.trouble)
        return True
