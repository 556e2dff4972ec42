"""The end of the agent that a training brought up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.home import Home
from lossguard.probes.launch import agent_is_running
from tests.support.waiting import eventually


@pytest.fixture
def own_home(home: Home) -> Iterator[Home]:
    """A home of this test's own; whatever agent was started there ends with the test."""
    yield home.create()
    if agent_is_running(home):
        with Client(home) as client:
            eventually(lambda: client.send(feed.Shutdown()))
        eventually(lambda: not agent_is_running(home))
