"""How a process ended that is no child of the one who asks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lossguard.agent import oom_kills
from lossguard.agent.oom_kills import OomKills
from lossguard.agent.process_end import ProcessEnd, end_in_words
from lossguard.agent.process_table import ProcessTable
from tests.support.probe import hello_of
from tests.support.waiting import becomes


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit code 0"),
        (3 << 8, "exit code 3"),
        (9, "killed by SIGKILL"),
        (11, "killed by SIGSEGV"),
    ],
)
def test_a_wait_status_in_words(status: int, words: str) -> None:
    assert end_in_words(status) == words


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that sleeps; it ends with the test."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_a_killed_process_is_seen_through_its_states(process: subprocess.Popen[bytes]) -> None:
    table = ProcessTable(hello_of(pid=process.pid, started_s=time.time()))
    try:
        assert table.state() == "running"
        process.send_signal(19)
        becomes(table.state, "stopped")
        process.send_signal(18)
        becomes(table.state, "running")
        process.kill()
        becomes(table.state, "zombie")
        assert table.ended().words == "killed by SIGKILL"
        process.wait()
        assert table.state() == "gone"
        # Kernels before 6.15 do not tell.
        assert table.ended().words in ("", "killed by SIGKILL")
        assert table.ended().rss_bytes > 0
    finally:
        table.close()


def test_one_that_began_later_under_the_same_number_is_another(
    process: subprocess.Popen[bytes],
) -> None:
    born = psutil.Process(process.pid).create_time()
    table = ProcessTable(hello_of(pid=process.pid, started_s=born - 100.0))
    assert table.state() == "gone"
    assert not table.send(9)
    assert process.poll() is None


def test_a_process_elsewhere_is_not_judged_by_this_host() -> None:
    table = ProcessTable(hello_of(pid=1, host="another"))
    assert table.state() == "elsewhere"
    assert table.children() == []


def test_who_is_there_has_no_end_yet(process: subprocess.Popen[bytes]) -> None:
    end = ProcessEnd(process.pid)
    try:
        assert end.status() is None
    finally:
        end.close()
        end.close()


def test_kills_for_want_of_memory_are_those_of_its_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its group counts them; what happens in another is no news of it."""
    own, other = tmp_path / "own", tmp_path / "other"
    for file in (own, other):
        file.write_text("low 0\noom_kill 2\noom_group_kill 7\n")
    monkeypatch.setattr(oom_kills, "_file_of", lambda pid: own)
    kills = OomKills(1)
    other.write_text("oom_kill 3\n")
    kills.look()
    assert not kills.has_grown()
    own.write_text("low 0\noom_kill 3\n")
    assert kills.has_grown()
    monkeypatch.setattr(oom_kills, "_file_of", lambda pid: None)
    kills.look()
    assert kills.has_grown()


def test_a_process_that_dies_is_in_the_group_it_was_in(process: subprocess.Popen[bytes]) -> None:
    """Between its death and the end of its entry in the process table it seems to be in the root's,
    whose count already holds the kill."""
    assert oom_kills._file_of(process.pid) is not None
    process.kill()
    becomes(lambda: psutil.Process(process.pid).status(), psutil.STATUS_ZOMBIE)
    assert oom_kills._file_of(process.pid) is None
