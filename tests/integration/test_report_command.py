"""``lossguard report`` and ``lossguard export`` as people and scripts call them."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lossguard.agent.database import open_database
from lossguard.agent.report.writing import write_report
from lossguard.errors import InputError, UsageError
from lossguard.home import Home
from tests.support.kept_runs import RUN, troubled


@pytest.fixture
def database(home: Home) -> Iterator[sqlite3.Connection]:
    """With one run in it; somebody has it open."""
    db = open_database(home.database_path)
    troubled(db)
    yield db
    db.close()


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``lossguard ARGUMENTS`` in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "lossguard", *arguments],
        capture_output=True, text=True, check=False, cwd=folder, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.usefixtures("database")
def test_a_report_is_named_after_its_run_and_its_name_says_the_format(
    home: Home, tmp_path: Path
) -> None:
    """HTML unless the file or --format says otherwise; Markdown shows the pictures."""
    done = command(tmp_path, "report")
    assert done.stdout.startswith(f"{RUN}.html: tiny, 300 steps")
    assert (tmp_path / f"{RUN}.html").read_text().startswith("<!DOCTYPE html>")
    write_report(home, "tiny", str(tmp_path / "out.md"), None, str(tmp_path / "my pictures"))
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (tmp_path / "out.md").read_text())
    assert "my%20pictures/loss.png" in links
    for link in links:
        assert (tmp_path / link.replace("%20", " ")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("database")
def test_an_export_goes_to_stdout_where_it_is_asked_to(tmp_path: Path) -> None:
    """And nothing but it: what is said goes to stderr."""
    done = command(tmp_path, "export", RUN[:6], "--format", "jsonl", "-o", "-")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 300
    assert rows[199]["loss"] == "nan"
    assert done.stderr.startswith("stdout: tiny, 300 steps")


@pytest.mark.usefixtures("database")
def test_an_unknown_run_is_one_line_on_stderr_and_a_code(tmp_path: Path) -> None:
    """And no file."""
    done = command(tmp_path, "report", "nonsense")
    assert (done.returncode, done.stdout) == (65, "")
    assert f"there is no run 'nonsense'; the newest are {RUN}" in done.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.usefixtures("database")
def test_what_cannot_be_written_is_said_before_and_after_the_reading(home: Home) -> None:
    """A format that nobody knows, a place that takes nothing, an agent on another host."""
    with pytest.raises(UsageError, match="say --format"):
        write_report(home, "", "x.docx", None, None)
    with pytest.raises(InputError, match="cannot be written"):
        write_report(home, "", "/proc/x.html", None, None)
    with pytest.raises(UsageError, match="say `lossguard report`"):
        write_report(replace(home, remote="tcp://other:7071"), "", None, None, None)
