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
_REMOTE_S = 5.0
"""An agent of another host that has not answered by then is not there [s]."""


def is_running(home: Home) -> bool:
    """Whether some process on this host is this user's agent, answering or not."""
    return agent_is_running(home)


def ensure_agent(home: Home, timeout_s: float = 15.0) -> feed.Pong:
    """Find this user's agent, or start one and wait until it answers. One of another host that
    ``LOSSGUARD_AGENT`` names is never started.

    Raises AgentUnreachable after ``timeout_s`` [s], naming the log of the agent.
    """
    if home.remote:
        return _expect_pong(home)
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


def _expect_pong(home: Home) -> feed.Pong:
    with Client(home) as client:
        answer = client.request(feed.Ping(), timeout_s=_REMOTE_S)
    if isinstance(answer, feed.Pong):
        return answer
    why = answer.why if isinstance(answer, feed.Trouble) else type(answer).__name__
    raise AgentUnreachable(f"the agent at {home.viewer_endpoint} answered: {why}")


def _last_words(home: Home) -> str:
    """Why the agent could not start, for whoever asked for it."""
    try:
        lines = home.agent_log_path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" (it said: {lines[-1][:300]})" if lines else ""
