"""``lossguard send``, one command and the loop's answer to it, and ``lossguard agent --stop``."""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import get_args

import msgspec

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.agent.launching import ensure_agent
from lossguard.errors import AgentUnreachable, LossguardError, NotAllowed, UsageError
from lossguard.home import Home, find_home
from lossguard.probes.launch import agent_is_running
from lossguard.probes.wire import Action


def send_command(run: str, action: str, arguments: list[str], wait_s: float) -> feed.CommandResult:
    """Send a command and wait for the answer for up to ``wait_s`` [s].

    Raises UsageError for an action or argument that does not exist, LossguardError where the
    agent refuses.
    """
    if action not in get_args(Action):
        raise UsageError(f"there is no action {action!r}; there are {', '.join(get_args(Action))}")
    home = find_home()
    ensure_agent(home)
    message = feed.SendCommand(
        run=run,
        command=f"hand.{secrets.token_hex(6)}",
        action=msgspec.convert(action, Action),
        args=dict(_key_value(text) for text in arguments),
    )
    deadline = time.monotonic() + wait_s
    with Client(home) as client:
        while True:
            # The same id again: it is answered with how far the command has come.
            answer = client.request(message)
            if isinstance(answer, feed.Trouble):
                raise LossguardError(answer.why)
            if not isinstance(answer, feed.CommandResult):
                raise LossguardError(f"the agent answered {type(answer).__name__}")
            if answer.status != "pending" or time.monotonic() >= deadline:
                return answer
            client.receive(0.1)


def stop_agent(home: Home, wait_s: float = 20.0) -> int:
    """End this user's agent, or the one that ``LOSSGUARD_AGENT`` names, and wait until it has
    ended; its process id there.

    Raises AgentUnreachable where none answers, or it does not end; NotAllowed where the key is not
    one of an operator.
    """
    if not _is_there(home):
        raise AgentUnreachable("no agent is running")
    with Client(home) as client:
        answer = client.request(feed.Ping(), timeout_s=10.0)
        with contextlib.suppress(AgentUnreachable):  # it may end before its answer is out
            told = client.request(feed.Shutdown(), timeout_s=3.0)
            if isinstance(told, feed.Trouble):
                raise NotAllowed(told.why)
    pid = answer.agent_pid if isinstance(answer, feed.Pong) else 0
    deadline = time.monotonic() + wait_s
    while _is_there(home):
        if time.monotonic() >= deadline:
            raise AgentUnreachable(f"agent {pid} was told to stop and is still there: kill {pid}")
        time.sleep(0.02)
    return pid


def _is_there(home: Home) -> bool:
    if not home.remote:
        return agent_is_running(home)
    with Client(home) as client, contextlib.suppress(AgentUnreachable):
        return isinstance(client.request(feed.Ping(), timeout_s=1.0), feed.Pong)
    return False


def _key_value(text: str) -> tuple[str, float | int | str]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"--arg wants key=value, got {text!r}")
    for kind in (int, float):
        try:
            return key, kind(value)
        except ValueError:
            continue
    return key, value
