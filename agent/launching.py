"""Making sure that an agent is there."""

from __future__ import annotations

import time

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.errors import AgentUnreachable
from lossguard.home import Home
from lossguard.probes.launch import agent_is_running, start_agent

_START_S = 5.0
"""An agent that was started needs less than this to take its lock [s]."""


def ensure_agent(home: Home, timeout_s: float = 15.0) -> feed.Pong:
    """Find this user's agent, or start one and wait until it answers.

    Raises AgentUnreachable after ``timeout_s`` [s], naming the log of the agent.
    """
    home.create()
    started_s = float("-inf")
    deadline = time.monotonic() + timeout_s
    with Client(home) as client:
        while time.monotonic() < deadline:
            if not agent_is_running(home) and time.monotonic() - started_s > _START_S:
                started_s = time.monotonic()
                start_agent(home)
            try:
                answer = client.request(feed.Ping(), timeout_s=1.0)
            except AgentUnreachable:
                continue
            if isinstance(answer, feed.Pong):
                return answer
    raise AgentUnreachable(
        f"the agent did not answer within {timeout_s:g} s{_last_words(home)}; its log is "
        f"{home.agent_log_path}"
    )


def _last_words(home: Home) -> str:
    """Why the agent could not start, for whoever asked for it."""
    try:
        lines = home.agent_log_path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" (it said: {lines[-1][:300]})" if lines else ""
