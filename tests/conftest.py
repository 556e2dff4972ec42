"""A home and an agent for every test that wants one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from lossguard.home import Home, find_home
from tests.support.agents import AgentProcess, BeginAgent, answering
from tests.support.site import Site

settings.register_profile("here", deadline=None)  # other tests run at the same time
settings.load_profile("here")


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
    with answering(AgentProcess(home)) as agent:
        yield agent


@pytest.fixture
def begin_agent(home: Home) -> Iterator[BeginAgent]:
    """Agents of one home, one after the other; all have ended afterwards."""
    num_begun = count()
    with ExitStack() as agents:
        yield lambda *options: agents.enter_context(
            answering(AgentProcess(home, *options), shows_log=next(num_begun) == 0)
        )


@pytest.fixture
def site(home: Home) -> Iterator[Site]:
    """The host of an agent that answers to other hosts."""
    site = Site(home)
    with answering(site.agent):
        yield site


TOGETHER = (
    "tests/contract/test_detectors_on_real_logs.py",
    "tests/e2e/ranks/",
    "tests/e2e/attaching/",
    "tests/e2e/test_guarded_run.py",
    "tests/packaging/test_distributions.py",
    "tests/tui_web/",
)
"""Tests that share what takes long to make: each of these in one process. (xdist's own way,
``--dist loadgroup``, renames tests, which pytest 9 does not let it.)"""


class Scheduling(LoadScopeScheduling):
    """Every other test goes to whichever process is free."""

    def _split_scope(self, nodeid: str) -> str:
        return next((place for place in TOGETHER if nodeid.startswith(place)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """How tests are dealt out under ``-n``."""
    return Scheduling(config, log)
