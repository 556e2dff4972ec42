"""Two versions that do not understand each other say so, and part politely."""

from __future__ import annotations

import logging
from contextlib import closing

import msgspec
import pytest
import zmq

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.errors import LossguardError
from lossguard.home import Home
from lossguard.probes import wire
from lossguard.probes.link import Link
from lossguard.probes.outbox import Outbox
from tests.support.agents import AgentProcess
from tests.support.probe import FakeProbe, hello_of
from tests.support.router import router_at
from tests.support.waiting import eventually

_pack = msgspec.msgpack.encode


def test_a_probe_of_any_other_version_learns_why_it_is_not_watched(agent: AgentProcess) -> None:
    """Also one whose hello this agent cannot read; the twin of this version is taken."""
    strange = {"type": "hello", "run": "run-a", "protocol": 99, "name": ["no", "text"]}
    older = {"type": "hello", "run": "run-a", "protocol": 0}
    for hello in (strange, older):
        with FakeProbe(agent.home, hello_of()) as probe:
            probe.raw(_pack(hello))
            why = probe.await_message(wire.Refused).why
            assert f"protocol {hello['protocol']}, this agent {wire.PROTOCOL}" in why
    assert agent.runs() == {}
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        assert set(agent.runs()) == {"run-a"}


@pytest.mark.parametrize("protocol", [wire.PROTOCOL, wire.PROTOCOL + 1])
def test_an_agent_of_another_version_is_not_obeyed(
    home: Home, caplog: pytest.LogCaptureFixture, protocol: int
) -> None:
    """The probe says so once and is silent; with one of its own version it speaks."""
    home.create()
    with (
        router_at(home.probe_endpoint) as socket,
        closing(Link(home, hello_of("run-x"), Outbox("run-x", 0), start_agents=False)) as link,
        caplog.at_level(logging.INFO),
    ):
        identity, _ = socket.recv_multipart()
        welcome = wire.Welcome(run="run-x", agent_pid=1, protocol=protocol)
        socket.send_multipart([identity, wire.encode(welcome)])
        if protocol == wire.PROTOCOL:
            eventually(lambda: link._connected)
            return
        eventually(lambda: f"it speaks protocol {protocol}, this probe" in caplog.text)
        limits = wire.Limits(run="run-x", version=1, loss=0.0)
        assert link.limits is None
        socket.send_multipart([identity, wire.encode(limits)])


def test_a_viewer_of_another_version_learns_why_it_gets_no_answer(agent: AgentProcess) -> None:
    """What the agent cannot read is answered in words; what it can read is answered."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as viewer:
        viewer.set(zmq.LINGER, 0)
        viewer.set(zmq.RCVTIMEO, 20_000)
        viewer.connect(agent.home.viewer_endpoint)
        viewer.send(_pack({"type": "what comes in version 7"}))
        trouble = feed.decode_from_agent(viewer.recv())
        assert isinstance(trouble, feed.Trouble)
        assert "does not understand that" in trouble.why
        viewer.send(feed.encode(feed.Ping()))
        assert isinstance(feed.decode_from_agent(viewer.recv()), feed.Pong)


@pytest.mark.parametrize("answer", [{"type": "pong", "protocol": 7}, {"type": "of version 7"}])
def test_an_agent_of_another_version_is_named_by_a_viewer(
    home: Home, answer: dict[str, object]
) -> None:
    """With what to do about it."""
    home.create()
    with router_at(home.viewer_endpoint) as socket, Client(home) as client:
        eventually(lambda: client.send(feed.Ping()))
        identity, _ = socket.recv_multipart()
        socket.send_multipart([identity, _pack(answer | {"agent_pid": 1, "version": "7"})])
        with pytest.raises(LossguardError, match="is it another version"):
            client.receive(20.0)
