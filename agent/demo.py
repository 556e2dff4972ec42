"""``lossguard demo``: one small training run three times, in real processes.

    clean     as it should go
    bare      with three accidents in it (``examples/trouble.py``)
    guarded   with the same accidents, under ``lossguard run --guard``

Same seed, same data, same number of steps. At the end: what Lossguard saw, what it did, and the
three validation losses. Everything happens in a temporary home with an agent of its own, so the
user's runs, agent and settings are left alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import lossguard
from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.agent.demo_outcome import Outcome
from lossguard.errors import AgentUnreachable, ExitCode, LossguardError

STEPS = 600
"""Long enough for a trend to leave, short enough for three runs in two minutes on two cores."""

RUN_NAME = "demo"

_POLL_S = 0.2
_PLAIN_LINE_EVERY_S = 5.0
_LAST_LINES = 15
_STEP_LINE = re.compile(r"^step (\d+)/\d+  loss (\S+)", re.MULTILINE)
_TROUBLE_LINE = re.compile(r"^trouble at (step \d+: .+)$", re.MULTILINE)


def run_demo(*, as_json: bool, dashboard: bool = False, steps: int | None = None) -> int:
    """Run the demo and print its result; the exit code.

    0 if the guarded run ended close to its clean twin and the bare one did not.
    ``as_json`` puts one JSON object on stdout, and nothing else there. ``dashboard`` opens
    ``lossguard top`` on the guarded run, until the user leaves it.
    """
    if importlib.util.find_spec("torch") is None:
        _say("the demo trains a real model and needs torch: pip install 'lossguard[torch]'")
        return ExitCode.ERROR
    with _own_home() as folder, _terminated_is_interrupted():
        demo = _Demo(folder, steps or STEPS, dashboard=dashboard and not as_json)
        try:
            outcome = demo.run()
        except LossguardError as error:
            _say(f"{error}")
            return ExitCode.ERROR
        except KeyboardInterrupt:
            _say("interrupted")
            return 128 + signal.SIGINT
        finally:
            demo.stop()
    typer.echo(json.dumps(outcome.as_json(), allow_nan=False) if as_json else outcome.as_text())
    return ExitCode.OK if outcome.saved else ExitCode.ERROR


# --- the three trainings ------------------------------------------------------------------


class _TrainingFailed(LossguardError):
    """A training process ended badly."""


class _Training:
    """One training process. It prints into a file, which nobody has to read in time."""

    def __init__(self, name: str, folder: Path, command: Sequence[str], steps: int) -> None:
        self.name = name
        self.steps = steps
        self._log = folder / f"{name}.log"
        self._result = folder / f"{name}.json"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C comes to us alone, and we end all of it in order.
            self._process = subprocess.Popen(
                [*command, "--json", str(self._result)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Raises _TrainingFailed where the process has ended with anything but success."""
        code = self._process.poll()
        if code:
            tail = "\n".join(self._text().splitlines()[-_LAST_LINES:])
            raise _TrainingFailed(f"the {self.name} training ended with {_exit(code)}:\n{tail}")
        return code is None

    def progress(self) -> tuple[int, str]:
        """Steps done and the last training loss as printed."""
        found = _STEP_LINE.findall(self._text())
        return (int(found[-1][0]), found[-1][1]) if found else (0, "")

    def accidents(self) -> list[str]:
        """The trouble it says it met, in order."""
        return _TROUBLE_LINE.findall(self._text())

    def val_loss(self) -> float:
        value = json.loads(self._result.read_text())["val_loss"]
        return math.nan if value is None else float(value)

    def kill(self) -> None:
        """End the process and whatever it started, if it still runs."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _text(self) -> str:
        return self._log.read_text(errors="replace")


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class _Demo:
    """Starts the trainings, shows how they get on, and asks the agent what it saw."""

    def __init__(self, folder: Path, steps: int, *, dashboard: bool) -> None:
        self._folder = folder
        self._steps = steps
        self._dashboard = dashboard
        self._trainings: list[_Training] = []

    def run(self) -> Outcome:
        """Raises LossguardError where a training fails or the agent does not answer."""
        python = [sys.executable]
        guard = [*python, "-m", "lossguard", "run", "--guard", "--name", RUN_NAME]
        with _progress_shown() as show:
            clean = self._start("clean", python)
            bare = self._start("bare", python, "--trouble")
            show([clean, bare])
            guarded = self._start("guarded", guard, "--trouble")
            if not self._dashboard:
                show([guarded])
        if self._dashboard:
            subprocess.run([sys.executable, "-m", "lossguard", "top"], check=False)
            with _progress_shown() as show:
                show([guarded])
        return Outcome(
            steps=self._steps,
            clean=clean.val_loss(),
            bare=bare.val_loss(),
            guarded=guarded.val_loss(),
            accidents=guarded.accidents(),
            incidents=_incidents(),
        )

    def stop(self) -> None:
        """End every process that the demo started. Idempotent."""
        for training in self._trainings:
            training.kill()
        if any(training.name == "guarded" for training in self._trainings):
            _end_agent()

    def _start(self, name: str, launcher: Sequence[str], *options: str) -> _Training:
        # Beside the package, not of it: a script for people to read and copy.
        script = Path(lossguard.__file__).parent / "examples" / "train_gpt.py"
        every = ["--steps", str(self._steps), "--print-every", "5", "--threads", "1"]
        command = [*launcher, str(script), *every, *options]
        training = _Training(name, self._folder, command, self._steps)
        self._trainings.append(training)
        return training


# --- the agent ----------------------------------------------------------------------------


def _incidents(settle_s: float = 10.0) -> list[feed.IncidentLine]:
    """The incidents of the guarded run, once the agent has heard that it ended."""
    with Client() as client:
        deadline = time.monotonic() + settle_s
        while True:
            answer = client.request(feed.ListRuns())
            runs = answer.runs if isinstance(answer, feed.RunList) else []
            run = next((run for run in runs if run.name == RUN_NAME), None)
            if run is not None and run.state not in ("running", "silent"):
                break
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        if run is None:
            raise AgentUnreachable("the guarded run never reached its agent")
        incidents = client.request(feed.ListIncidents(run=run.run))
    if not isinstance(incidents, feed.IncidentList):
        why = incidents.why if isinstance(incidents, feed.Trouble) else repr(incidents)
        raise LossguardError(f"the agent did not list its incidents: {why}")
    return sorted(incidents.incidents, key=lambda incident: incident.detected_step)


def _end_agent(patience_s: float = 5.0) -> None:
    """Ask the demo's agent to end, and see that it did."""
    with Client() as client, contextlib.suppress(AgentUnreachable, psutil.Error):
        pong = client.request(feed.Ping(), timeout_s=3.0)
        if not isinstance(pong, feed.Pong):
            return
        agent = psutil.Process(pong.agent_pid)
        client.send(feed.Shutdown())
        try:
            agent.wait(patience_s)
        except psutil.TimeoutExpired:
            agent.kill()


@contextlib.contextmanager
def _own_home() -> Iterator[Path]:
    """A temporary LOSSGUARD_HOME, without any other setting of ours that the user has made."""
    before = {name: value for name, value in os.environ.items() if name.startswith("LOSSGUARD_")}
    with tempfile.TemporaryDirectory(prefix="lossguard-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        for key in before:
            del os.environ[key]
        os.environ["LOSSGUARD_HOME"] = str(folder / "home")
        try:
            yield folder
        finally:
            del os.environ["LOSSGUARD_HOME"]
            os.environ.update(before)


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that no training is left behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- progress, on stderr ------------------------------------------------------------------

_Show = Callable[[Sequence[_Training]], None]
"""Watches the trainings until all have ended."""


def _say(line: str) -> None:
    typer.echo(line, err=True)


@contextlib.contextmanager
def _progress_shown() -> Iterator[_Show]:
    """Bars where stderr is a terminal, a line every few seconds elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _show_lines
        return
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:8}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield lambda trainings: _show_bars(bars, trainings)


def _any_running(trainings: Sequence[_Training]) -> bool:
    """Asks each of them, so that one that failed is noticed while others go on."""
    return [training.running() for training in trainings].count(True) > 0


def _show_bars(bars: Progress, trainings: Sequence[_Training]) -> None:
    tasks = [bars.add_task(training.name, total=training.steps, loss="") for training in trainings]
    running = True
    while running:
        time.sleep(_POLL_S)
        running = _any_running(trainings)
        for training, task in zip(trainings, tasks, strict=True):
            done, loss = training.progress()
            bars.update(task, completed=done, loss=loss)


def _show_lines(trainings: Sequence[_Training]) -> None:
    said = time.monotonic()
    _say("training " + " and ".join(training.name for training in trainings))
    running = True
    while running:
        time.sleep(_POLL_S)
        running = _any_running(trainings)
        if not running or time.monotonic() - said >= _PLAIN_LINE_EVERY_S:
            said = time.monotonic()
            _say("   ".join(_line(training) for training in trainings))


def _line(training: _Training) -> str:
    done, loss = training.progress()
    return f"{training.name} {done}/{training.steps}" + (f" loss {loss}" if loss else "")
