"""A home and an agent for every test that wants one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.home import Home, find_home
from tests.support.agents import AgentProcess


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of this test's own; its path is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp"))
    monkeypatch.setenv("LOSSGUARD_HOME", str(root))
    monkeypatch.delenv("LOSSGUARD", raising=False)
    yield find_home()
    shutil.rmtree(root)


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    """A real agent that answers; what it said is shown when the test fails."""
    process = AgentProcess(home)
    try:
        yield process.await_ready()
    finally:
        process.stop()
        sys.stderr.write(process.log)
