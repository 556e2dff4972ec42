"""The doors themselves: shut where nobody guards them, and for one agent at a time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner

from lossguard.agent import feed
from lossguard.agent.authenticator import Authenticator
from lossguard.agent.cli import app
from lossguard.agent.client import Client
from lossguard.agent.keyring import VIEWERS, Keyring
from lossguard.agent.listen_settings import ListenSettings
from lossguard.agent.listening import check_listening, refusal_to_viewer
from lossguard.agent.peers import KeyDoor, LocalDoor, Peer, Refused
from lossguard.agent.sockets import Router
from lossguard.errors import AgentAlreadyRunning, AgentUnreachable, ConfigError, ExitCode
from lossguard.home import Home
from tests.support.agents import AgentProcess
from tests.support.ports import free_port

PONG = feed.encode(feed.Pong(agent_pid=1, version="0"))
_KNOCK = """
import os, sys
import zmq
endpoint, uid = sys.argv[1], int(sys.argv[2])
os.setuid(uid)
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.set(zmq.LINGER, 0)
socket.connect(endpoint)
socket.send(bytes.fromhex(sys.argv[3]))
print("answered" if socket.poll(int(sys.argv[4])) else "silence")
socket.close()
context.term()
"""


@pytest.fixture
def ring(home: Home) -> Keyring:
    """Of an agent that has a key."""
    ring = Keyring(home)
    ring.init()
    return ring


async def asked(home: Home, seconds: float) -> str:
    """What came of a request from another host: ``answered``, or why not."""

    def ask() -> str:
        with Client(home) as client:
            try:
                client.request(feed.Ping(), timeout_s=seconds)
            except AgentUnreachable as error:
                return str(error)
            return "answered"

    return await asyncio.to_thread(ask)


async def turned_away(home: Home) -> str:
    """Why nobody got in, as soon as it is known. A handshake begun while an authenticator dies ends
    by its deadline only, so that a first question may meet silence; none may be answered."""
    deadline_s = time.monotonic() + 20
    while (why := await asked(home, 1.0)) != "answered" and time.monotonic() < deadline_s:
        if "does not answer" not in why:
            break
    return why


async def test_without_an_authenticator_nobody_gets_in(ring: Keyring, home: Home) -> None:
    """A known key is turned away while nobody answers for it, also after one that has died; it gets
    in as long as one does."""
    address = f"tcp://127.0.0.1:{free_port()}"
    ring.add("look", "viewer", home.config / "look.key")
    there = replace(home, remote=address, key_file=home.config / "look.key")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def take(identity: bytes, frames: list[bytes], peer: Peer) -> None:
        assert peer.account == "key look"
        router.send(identity, PONG)

    router = Router(
        context,
        there.viewer_endpoint,
        take,
        door=KeyDoor(ring, VIEWERS),
        refusal=refusal_to_viewer,
        mark=b"V",
    )
    guard: Authenticator | None = None
    try:
        assert "lets nobody in" in await turned_away(there)
        guard = Authenticator(context, ring, lambda address, key, door: None)
        assert await asked(there, 10.0) == "answered"
        guard.close()
        assert "lets nobody in" in await turned_away(there)
    finally:
        if guard is not None:
            guard.close()
        router.close()
        context.term()


@pytest.mark.parametrize(
    ("tcp", "anywhere", "words"),
    [
        ("tcp://*:7700", False, "say that you mean it with --anywhere"),
        ("tcp://0.0.0.0:7700", False, "say that you mean it with --anywhere"),
        ("tcp://[::]:7700", False, "say that you mean it with --anywhere"),
        ("tcp://0.0.0.0:7700", True, "no client's key yet; type: lossguard keys add"),
        ("tcp://127.0.0.1", False, "wanted is tcp://HOST:PORT"),
        ("tcp://127.0.0.1:65535", False, "wanted is tcp://HOST:PORT"),
        ("udp://127.0.0.1:7700", False, "wanted is tcp://HOST:PORT"),
    ],
)
def test_what_would_be_open_to_the_world_is_refused(
    ring: Keyring, tcp: str, anywhere: bool, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_listening(ListenSettings(tcp=tcp, anywhere=anywhere), ring)


def test_what_is_meant_and_guarded_is_not(ring: Keyring, home: Home) -> None:
    """One address; or all of them, with the flag and a client that is known."""
    check_listening(ListenSettings(tcp="tcp://127.0.0.1:7700"), ring)
    ring.add("a", "probe", home.config / "a.key")
    check_listening(ListenSettings(tcp="tcp://0.0.0.0:7700", anywhere=True), ring)


def test_without_curve_or_a_key_of_its_own_none_listens(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no way to serve other hosts in the clear."""
    settings = ListenSettings(tcp="tcp://127.0.0.1:7700")
    with pytest.raises(ConfigError, match="type: lossguard keys init"):
        check_listening(settings, Keyring(home))
    Keyring(home).init()
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    with pytest.raises(ConfigError, match="no CURVE"):
        check_listening(settings, Keyring(home))


def serve(*options: str) -> None:
    """``lossguard agent`` in this process, until it has nothing to watch; raises what it does."""
    ended = CliRunner().invoke(app, ["agent", "--idle", "0.1", *options])
    if ended.exception is not None:
        raise ended.exception


def test_an_agent_that_may_not_listen_does_not_start(home: Home) -> None:
    """By the command line as by its settings."""
    with pytest.raises(ConfigError, match="lossguard keys init"):
        serve("--listen", "tcp://127.0.0.1:7700")
    Keyring(home).init()
    home.settings_path.write_text('[listen]\ntcp = "tcp://0.0.0.0:7700"\n')
    with pytest.raises(ConfigError, match="--anywhere"):
        serve()
    home.settings_path.write_text("[listen]\ntpc = 1\n")
    with pytest.raises(ConfigError, match=r"listen\.tpc"):
        serve()


def test_there_is_one_agent_for_the_sockets_and_one_for_the_state(
    agent: AgentProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second says which process has it and what to type; the first is not disturbed. Elsewhere,
    with a state of its own, one starts."""
    command = [sys.executable, "-m", "lossguard", "agent"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == int(ExitCode.ALREADY_RUNNING)
    assert f"(pid {agent.process.pid})" in second.stderr
    assert "lossguard agent --stop" in second.stderr
    monkeypatch.setenv("LOSSGUARD_HOME", str(tmp_path / "other"))
    with pytest.raises(AgentAlreadyRunning, match=f"pid {agent.process.pid}.*{agent.home.state}"):
        serve("--state", str(agent.home.state))
    assert isinstance(agent.ask(feed.Ping()), feed.Pong)
    serve("--state", str(tmp_path / "free"))
    assert (tmp_path / "free" / "lossguard.db").exists()


@pytest.fixture
def open_agent(agent: AgentProcess) -> AgentProcess:
    """One whose folder and sockets somebody has opened to all."""
    for path in (agent.home.runtime, *agent.home.runtime.glob("*.sock")):
        assert path.stat().st_mode & 0o077 == 0
        path.chmod(0o777)
    agent.home.runtime.parent.chmod(0o755)
    return agent


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_of_this_host_is_not_heard(open_agent: AgentProcess) -> None:
    """Not even where the file system lets him in; the owner is, by the same door."""

    def knock(uid: int, patience_ms: int) -> str:
        words = (open_agent.home.viewer_endpoint, str(uid), feed.encode(feed.Ping()).hex())
        return subprocess.check_output(
            [sys.executable, "-c", _KNOCK, *words, str(patience_ms)], text=True
        ).strip()

    assert knock(0, 20_000) == "answered"
    assert knock(65534, 1000) == "silence"


def test_credentials_of_another_user_are_refused_once_more() -> None:
    """Should the transport ever let them by."""

    class Credentials:
        def __init__(self, uid: int) -> None:
            self.address = f"localhost:{uid}:0:77"

        def get(self, name: str) -> str:
            return self.address

    mine = LocalDoor().admit(b"", Credentials(os.getuid()))  # type: ignore[arg-type]
    assert mine.who == f"uid {os.getuid()} pid 77"
    with pytest.raises(Refused):
        LocalDoor().admit(b"", Credentials(os.getuid() + 1))  # type: ignore[arg-type]
