"""Starting an agent in the background."""

from __future__ import annotations

import subprocess

import pytest

from lossguard.home import Home
from lossguard.probes import launch


@pytest.mark.parametrize(("length", "is_kept"), [(10, True), (11, False)])
def test_the_agents_log_makes_room_when_it_is_long(
    home: Home, monkeypatch: pytest.MonkeyPatch, length: int, is_kept: bool
) -> None:
    """Two files at most, however often an agent begins."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(launch, "_LONG_LOG_BYTES", 10)
    home.create()
    for _ in range(3):
        home.agent_log_path.write_bytes(b"x" * length)
        launch.start_agent(home)
    assert (home.agent_log_path.read_bytes() == b"x" * length) == is_kept
    older = home.agent_log_path.with_name("agent.log.1")
    assert older.exists() != is_kept
    assert len(list(home.logs.iterdir())) == 2 - is_kept
