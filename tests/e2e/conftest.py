"""The end of the agent that a training brought up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lossguard.home import Home
from tests.e2e.live import end_agent


@pytest.fixture
def own_home(home: Home) -> Iterator[Home]:
    """A home of this test's own; whatever agent was started there ends with the test."""
    yield home.create()
    end_agent(home)
