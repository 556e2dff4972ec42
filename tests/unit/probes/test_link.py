"""The link against a real socket: patient, deaf to nonsense, never in the way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import zmq
from torch import nn

from lossguard.home import Home
from lossguard.probes import link as link_module
from lossguard.probes import wire
from lossguard.probes.guard import Guard, attach
from lossguard.probes.identity import make_hello
from lossguard.probes.link import Link
from lossguard.probes.outbox import Outbox
from tests.unit.probes.loops import loop_of

PATIENCE_S = 20.0


class Peer:
    """A bound ROUTER that the test reads and answers with."""

    def __init__(self, home: Home) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, 50)
        self.socket.bind(home.probe_endpoint)
        self.identity = b""

    def receive(self) -> Any:
        """The next message; a step is (header, payload)."""
        assert self.socket.poll(int(PATIENCE_S * 1000)), "the probe says nothing"
        self.identity, *frames = self.socket.recv_multipart()
        message = wire.decode_from_probe(frames[0])
        return (message, frames[1]) if isinstance(message, wire.Step) else message

    def wait_for(self, kind: type, count: int = 1) -> list[Any]:
        """The next ``count`` messages of a kind; others are passed over."""
        found: list[Any] = []
        while len(found) < count:
            message = self.receive()
            if isinstance(message[0] if isinstance(message, tuple) else message, kind):
                found.append(message)
        return found

    def say(self, *frames: bytes) -> None:
        """Raw frames to the probe heard last."""
        self.socket.send_multipart([self.identity, *frames])

    def welcome(self) -> None:
        """Answer a hello."""
        (hello,) = self.wait_for(wire.Hello)
        self.say(wire.encode(wire.Welcome(run=hello.run, agent_pid=1)))

    def close(self) -> None:
        """Vanish."""
        self.socket.close()
        self.context.term()


@pytest.fixture
def peer(home: Home) -> Iterator[Peer]:
    """An agent, played by the test."""
    peer = Peer(home)
    yield peer
    peer.close()


@pytest.fixture
def guard(home: Home) -> Iterator[Guard]:
    """A watched one-layer loop."""
    model = nn.Linear(2, 1)
    guard = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), agent="existing")
    yield guard
    guard.close()


def train(guard: Guard, steps: int = 1) -> None:
    """Updates with gradients of one."""
    optimizer = loop_of(guard)._state.optimizers[0]
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread to get there."""
    deadline = time.monotonic() + PATIENCE_S
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        tick.wait(0.005)


def test_hello_is_repeated_until_it_is_answered(peer: Peer, guard: Guard) -> None:
    """Then come the layout and the steps, in order, with what was measured before."""
    train(guard, 3)
    assert [m.run for m in peer.wait_for(wire.Hello, 3)] == [guard.run] * 3
    peer.welcome()
    (layout,) = peer.wait_for(wire.Layout)
    steps = [peer.receive() for _ in range(3)]
    assert [header.step for header, _ in steps] == [1, 2, 3]
    assert all(len(payload) == 4 * len(layout.names) for _, payload in steps)
    assert all(header.layout == layout.layout for header, _ in steps)


def test_resend_is_answered_by_hello_and_layout(peer: Peer, guard: Guard) -> None:
    """An agent that was restarted asks for both."""
    peer.welcome()
    train(guard)
    peer.wait_for(wire.Step)
    peer.say(wire.encode(wire.Resend(run=guard.run)))
    peer.wait_for(wire.Hello)
    train(guard)
    peer.wait_for(wire.Layout)
    ((header, _),) = peer.wait_for(wire.Step)
    assert header.step == 2


def test_limits_and_commands_reach_the_loop(peer: Peer, guard: Guard) -> None:
    """And the answer to a command comes back, in front of waiting measurements."""
    peer.welcome()
    peer.say(wire.encode(wire.Limits(run=guard.run, version=1, grad_norm=3.0)))
    order = wire.Command(run=guard.run, command="c", action="lower_lr", expires_step=9)
    peer.say(wire.encode(order))
    link = loop_of(guard)._link
    until(lambda: link.orders)
    assert link.limits is not None
    assert link.limits.grad_norm == 3.0
    train(guard)
    (ack,) = peer.wait_for(wire.Ack)
    assert (ack.command, ack.status) == ("c", "done")


def test_stacks_are_told_by_a_loop_that_stands_still(peer: Peer, guard: Guard) -> None:
    """Not at the next step, which may never come; and the same order once."""
    peer.welcome()
    for _ in range(3):
        order = wire.Command(run=guard.run, command="c", action="dump_stacks", expires_step=9)
        peer.say(wire.encode(order))
    (answer,) = peer.wait_for(wire.Ack)
    assert (answer.command, answer.status, answer.step) == ("c", "done", 0)
    assert "test_stacks_are_told_by_a_loop_that_stands_still" in answer.result["stacks"]
    train(guard)
    assert not [m for m in (peer.receive() for _ in range(3)) if isinstance(m, wire.Ack)]


def test_heartbeats_say_where_the_loop_is(peer: Peer, guard: Guard) -> None:
    """The thread that trains, not the one that sends."""
    peer.welcome()
    train(guard)
    beats = peer.wait_for(wire.Heartbeat)
    assert beats[-1].phase == "script"
    assert "test_link.py" in beats[-1].at


def test_messages_for_another_run_are_not_for_us(peer: Peer, guard: Guard) -> None:
    """They neither order nor count as a sign of life."""
    peer.wait_for(wire.Hello)
    peer.say(wire.encode(wire.Command(run="other", command="c", action="stop", expires_step=9)))
    peer.say(wire.encode(wire.Welcome(run=guard.run, agent_pid=1)))
    peer.wait_for(wire.Heartbeat)
    assert not loop_of(guard)._link.orders


HOSTILE = {
    "empty": b"",
    "text": b"GET / HTTP/1.1\r\n",
    "half": wire.encode(wire.Welcome(run="r", agent_pid=1))[:-3],
    "utf-8": b"\x82\xa4type\xa7welcome\xa3run\xa2\xff\xfe",
    "deep": b"\x83\xa4type\xa7welcome\xa3run\xa1a\xa1z" + b"\x91" * 100_000 + b"\x01",
    "a probe's": wire.encode(wire.Event(run="r", rank=0, step=1, kind="k", message="m")),
    "action": b"\x84\xa4type\xa7command\xa3run\xa1r\xa7command\xa1c\xa6action\xa4rm-f",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_frame_is_ignored(
    peer: Peer, guard: Guard, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """One line for all of them, and the link goes on."""
    peer.wait_for(wire.Hello)
    for _ in range(20):
        peer.say(HOSTILE[what])
        peer.say(HOSTILE[what], b"", HOSTILE[what])
    peer.welcome()
    train(guard)
    peer.wait_for(wire.Step)
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "makes no sense" in lines[0].getMessage()


def test_a_refusal_is_final(peer: Peer, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent any more, and nothing is kept for sending."""
    monkeypatch.setattr(link_module, "_HEARTBEAT_S", 0.01)
    peer.wait_for(wire.Hello)
    peer.say(wire.encode(wire.Refused(run=guard.run, why="full")))
    loop = loop_of(guard)
    until(lambda: loop._link._refused)
    while peer.socket.poll(0):
        peer.socket.recv_multipart()
    train(guard, 5)
    until(lambda: not loop._outbox._measured and not loop._outbox.parcels)
    assert not peer.socket.poll(200)


def test_an_agent_that_vanishes_and_comes_back_is_found_again(
    home: Home, guard: Guard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The steps of the time between arrive, and none is missing."""
    monkeypatch.setattr(link_module, "_SILENCE_S", 0.2)
    monkeypatch.setattr(link_module, "_HEARTBEAT_S", 0.05)
    first = Peer(home)
    first.welcome()
    train(guard)
    first.wait_for(wire.Step)
    first.close()
    until(lambda: not loop_of(guard)._link._connected)
    train(guard, 10)
    second = Peer(home)
    try:
        second.welcome()
        second.wait_for(wire.Layout)
        got = [second.wait_for(wire.Step)[0][0] for _ in range(10)]
        assert [header.step for header in got] == list(range(2, 12))
        assert [header.sequence for header in got] == list(range(2, 12))
    finally:
        second.close()
    assert caplog.text.count("no word from the lossguard agent") == 1
    assert caplog.text.count("the lossguard agent is back after") == 1


def test_an_agent_that_does_not_read_costs_measurements_and_no_time(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen, as by SIGSTOP: the loop does not wait, memory is bounded, the sums are right."""
    model = nn.Linear(2, 1)
    with attach(model, torch.optim.SGD(model.parameters(), lr=0.1), agent="existing") as guard:
        outbox = loop_of(guard)._outbox
        outbox._limit = 64
        peer.welcome()
        train(guard)
        peer.wait_for(wire.Step)
        monkeypatch.setattr(Link, "_send_step", lambda self, socket, parcel: False)
        began = time.monotonic()
        train(guard, 3000)
        assert time.monotonic() - began < 10.0
        until(lambda: not outbox._measured)
        assert len(outbox.parcels) == 64
        assert outbox.dropped == 3000 - 64
        assert outbox.parcels[-1].header.step == 3001
    assert outbox.farewell is not None


def test_the_socket_itself_never_blocks(home: Home, peer: Peer) -> None:
    """A peer that reads nothing at all: the queues fill up, and sending says so at once."""
    outbox = Outbox("run", 0)
    hello = make_hello("run", "observe")
    link = Link(home, hello, outbox, start_agents=False)
    try:
        (hello_heard,) = peer.wait_for(wire.Hello)
        peer.say(wire.encode(wire.Welcome(run=hello_heard.run, agent_pid=1)))
        until(lambda: link._connected)
        big = "x" * 200_000
        for i in range(3000):
            outbox.say(wire.Event(run="run", rank=0, step=i, kind="k", message=big))
        began = time.monotonic()
    finally:
        link.close()
    assert time.monotonic() - began < 2.5
    assert outbox.words, "more than fits into the queues"


@pytest.mark.parametrize("agent", ["none", "connected"])
def test_closing_takes_less_than_two_seconds(home: Home, agent: str) -> None:
    """With nobody there, and with somebody who has stopped reading."""
    peer = Peer(home) if agent == "connected" else None
    model = nn.Linear(2, 1)
    guard = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), agent="existing")
    if peer:
        peer.welcome()
    train(guard, 20)
    thread = loop_of(guard)._link._thread
    began = time.monotonic()
    guard.close()
    assert time.monotonic() - began < 2.0
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    if peer:
        peer.close()


def test_the_farewell_is_the_last_word(peer: Peer, guard: Guard) -> None:
    """After every step and every logged value."""
    peer.welcome()
    train(guard, 5)
    guard.log(val_loss=0.5)
    guard.close("finished")
    heard = peer.wait_for(wire.Step, 6)
    assert [header.step for header, _ in heard] == [1, 2, 3, 4, 5, 5]
    assert heard[-1][0].applied == 5
    (bye,) = peer.wait_for(wire.Bye)
    assert (bye.step, bye.reason) == (5, "finished")


def test_a_link_that_fails_leaves_the_run_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line; the loop goes on, and holds only so much for a link that will not come."""

    def fails(self: Link, socket: Any) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(Link, "_loop", fails)
    model = nn.Linear(2, 1)
    with attach(model, torch.optim.SGD(model.parameters(), lr=0.1), agent="existing") as guard:
        loop_of(guard)._link._thread.join(PATIENCE_S)
        loop_of(guard)._outbox._limit = 64
        train(guard, 200)
        assert len(loop_of(guard)._outbox._measured) == 128
        assert guard.step == 200
    assert "the link to the agent failed (OSError: too many open files)" in caplog.text
