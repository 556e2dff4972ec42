"""Disks, clocks and processes that misbehave."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lossguard.agent import written_file
from lossguard.agent.evidence import Evidence
from lossguard.home import Home
from lossguard.probes import wire
from tests.faults.everything import Training, digest
from tests.faults.story import Agents
from tests.support.agents import AgentProcess, answering
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.support.waiting import eventually

SCRIPT = Path(__file__).with_name("everything.py")

# --- disks --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Of 4 MiB; skipped where this user may not mount one."""
    with tempfile.TemporaryDirectory(prefix="lg-disk-", dir="/tmp") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("may not mount a file system")
        yield Path(folder)
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_neither_judging_nor_orders(home: Home, small_disk: Path) -> None:
    """The order comes while nothing can be written; all is written when it can be again."""
    home = replace(home, state=small_disk)
    ballast = small_disk / "ballast"
    with (
        answering(AgentProcess(home, "--state", str(small_disk))) as agent,
        FakeProbe(home, hello_of()) as probe,
    ):
        probe.join()
        for loss in healthy_losses(80):
            probe.send_step(loss)
        agent.await_run(lambda run: run.step == 80)
        _fill(ballast)
        for _ in range(3):
            probe.send_step(30.0)
        order = probe.await_message(wire.Command)
        eventually(lambda: "cannot write" in agent.log)
        ballast.unlink()
        probe.ack(order, restored_step=70)
        eventually(lambda: agent.incidents()[0].actions)
        eventually(lambda: "is written to again" in agent.log)
    assert "Traceback" not in agent.log


def _fill(path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        path.write_bytes(b"x" * (16 << 20))


def test_an_agent_on_a_disk_that_is_read_only_says_so_and_ends(
    home: Home, small_disk: Path
) -> None:
    """Exit code 78, one line, no traceback: training goes on unwatched."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "lossguard", "agent", "--state", str(small_disk)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    assert str(small_disk) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE])
def test_evidence_that_cannot_be_written_is_said_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """Nor is half a file left under its name."""

    def fails(old: object, new: object) -> None:
        raise OSError(number, os.strerror(number))

    kept = Evidence("run-a", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("lossguard.agent.evidence.os.replace", fails)
        kept.put("run-a.1", "notes.txt", "words")
    assert "could not be written" in caplog.text
    assert not (tmp_path / "run-a.1" / "notes.txt").exists()
    kept.put("run-a.1", "notes.txt", "words")
    assert (tmp_path / "run-a.1" / "notes.txt").read_text() == "words"


@pytest.mark.parametrize("words", ["disk I/O error", "database or disk is full", "locked"])
def test_a_disk_error_in_the_middle_of_a_run_loses_nothing(tmp_path: Path, words: str) -> None:
    """Half of all transactions fail; at the end everything stands in the journal."""
    agents = Agents(tmp_path)
    calls = 0

    def sometimes(site: str) -> None:
        nonlocal calls
        calls += site == "store.in_transaction"
        if site == "store.in_transaction" and calls % 2:
            raise sqlite3.OperationalError(words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written_file, "reach", sometimes)
        agents.live()
    agents.registry.store.commit()
    assert agents.journal() == dict.fromkeys(agents.probe.executed, "done")
    assert sum(1 for _ in agents.registry.store.steps_after("run-a", 0)) == 200


# --- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
def test_a_wall_clock_that_jumps_by_a_day_changes_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Durations are measured by another clock: the same incidents, the same orders."""
    steady = Agents(tmp_path / "steady")
    steady.live()
    jumping = Agents(tmp_path / "jumping")
    real = time.time

    def jumps() -> float:
        return real() + (jump_s if (jumping.probe.step // 30) % 2 else 0.0)

    monkeypatch.setattr(time, "time", jumps)
    jumping.live()
    monkeypatch.undo()
    assert Counter(jumping.incidents()) == Counter(steady.incidents())
    assert list(jumping.journal().values()) == list(steady.journal().values())
    assert jumping.registry.runs["run-a"].state == "running"


# --- processes ----------------------------------------------------------------------------------


def test_a_run_id_that_is_used_again_begins_a_run_anew(agent: AgentProcess) -> None:
    """By another process, and by the same process number with another beginning."""
    for number, started_s in enumerate((1.0, 2.0, 3.0), start=1):
        with FakeProbe(agent.home, hello_of(started_s=started_s)) as probe:
            probe.join()
            for loss in healthy_losses(10 * number):
                probe.send_step(loss)
            agent.await_run(lambda run, want=10 * number: run.step == want)  # type: ignore[misc]
            run = agent.run()
            assert run is not None
            assert (run.dropped, run.state) == (0, "running")


@pytest.mark.slow
def test_a_child_that_was_forked_before_the_watch_began_is_not_part_of_it(
    home: Home, tmp_path: Path
) -> None:
    """It lives and dies as it would; the parent is watched."""
    code = (
        "import os, sys, torch, lossguard\n"
        "read, write = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.read(read, 1)\n"
        "    os._exit(5)\n"
        "from pathlib import Path\n"
        "from tests.faults.everything import Training, digest\n"
        "t = Training(Path(sys.argv[1]))\n"
        "g = lossguard.attach(t.model, t.optimizer, agent='existing')\n"
        "t.run(g)\n"
        "os.write(write, b'x')\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5\n"
        "print(digest(t.end()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=SCRIPT.parents[2], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    plain = Training(tmp_path)
    plain.run()
    assert (done.returncode, done.stdout.strip()) == (0, digest(plain.end())), done.stderr[-2000:]


@pytest.mark.slow
def test_a_process_that_holds_the_gil_for_long_is_not_given_up(
    agent: AgentProcess, tmp_path: Path
) -> None:
    """A minute without a heartbeat: silent meanwhile, never called dead, and taken up again."""
    plain = Training(tmp_path)
    plain.run()
    env = {**os.environ, "WATCHED": "1", "HOLD_GIL_S": "62", "PYTHONPATH": str(SCRIPT.parents[2])}
    seen: set[str] = set()
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True
    ) as process:

        def look() -> bool:
            seen.update(run.state for run in agent.runs().values())
            return process.poll() is not None

        try:
            eventually(look, patience_s=110.0)
            assert process.stdout is not None
            said: Any = process.stdout.read()
        finally:
            process.kill()
    assert digest(plain.end()) in said
    assert "silent" in seen
    assert "died" not in seen
    eventually(lambda: {run.state for run in agent.runs().values()} == {"finished"})
