"""The agent of a training, and its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lossguard.agent.launching import ensure_agent
from lossguard.home import Home
from tests.e2e.live import end_agent


@pytest.fixture
def own_home(home: Home) -> Iterator[Home]:
    """A home of this test's own; whatever agent was started there ends with the test."""
    yield home.create()
    end_agent(home)


@pytest.fixture
def served_home(own_home: Home) -> Home:
    """The same, and its agent answers: what a training of a second shows is seen from its first
    step. Without, the training brings one up, which may come too late for that."""
    ensure_agent(own_home, 60.0)
    return own_home
