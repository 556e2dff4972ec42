"""How a process ended that is no child of the one who asks."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from lossguard.agent.process_end import ProcessEnd, end_in_words
from lossguard.agent.process_table import ProcessTable
from tests.support.probe import hello_of
from tests.support.waiting import becomes

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


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


def test_a_killed_process_is_seen_through_its_states() -> None:
    process = subprocess.Popen(SLEEPS)
    table = ProcessTable(hello_of(pid=process.pid, started_s=time.time()))
    try:
        assert table.state() == "running"
        process.send_signal(19)
        becomes(table.state, "stopped")
        process.send_signal(18)
        becomes(table.state, "running")
        process.kill()
        becomes(table.state, "zombie")
        process.wait()
        assert table.state() == "gone"
        # Kernels before 6.15 do not tell.
        assert table.ended().words in ("", "killed by SIGKILL")
        assert table.ended().rss_bytes > 0
    finally:
        process.kill()
        process.wait()
        table.close()


def test_one_that_began_later_under_the_same_number_is_another() -> None:
    process = subprocess.Popen(SLEEPS)
    try:
        born = psutil.Process(process.pid).create_time()
        table = ProcessTable(hello_of(pid=process.pid, started_s=born - 100.0))
        assert table.state() == "gone"
        assert not table.send(9)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_process_elsewhere_is_not_judged_by_this_host() -> None:
    table = ProcessTable(hello_of(pid=1, host="another"))
    assert table.state() == "elsewhere"
    assert table.children() == []


def test_who_is_there_has_no_end_yet() -> None:
    process = subprocess.Popen(SLEEPS)
    end = ProcessEnd(process.pid)
    try:
        assert end.status() is None
    finally:
        process.kill()
        process.wait()
        end.close()
        end.close()
