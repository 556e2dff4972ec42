"""Bytes that no probe and no viewer sends."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.probes import wire
from tests.support.agents import AgentProcess
from tests.support.probe import FakeProbe, hello_of

_pack = msgspec.msgpack.encode
_HELLO = msgspec.to_builtins(hello_of("run-evil"))
_STEP = {
    "type": "step", "run": "run-evil", "rank": 0, "step": 1, "applied": 1, "layout": 0,
    "sequence": 1, "time_s": 0.0,
}  # fmt: skip

HOSTILE: dict[str, list[bytes]] = {
    "an empty frame": [b""],
    "ten frames": [b"x"] * 10,
    "random bytes": [random.Random(1).randbytes(500)],
    "a list": [_pack([1, 2, 3])],
    "nothing known": [_pack({"type": "eval", "run": "run-evil", "code": "1"})],
    "a message to probes": [wire.encode(wire.Welcome(run="run-evil", agent_pid=1))],
    "NaN as a key": [_pack({float("nan"): 1})],
    "deep nesting": [b"\x91" * 5000 + b"\xc0"],
    "a number for a name": [_pack(_HELLO | {"name": 5})],
    "a path for an id": [_pack(_HELLO | {"run": "../../etc/passwd"})],
    "an endless id": [_pack(_HELLO | {"run": "r" * 100_000})],
    "a negative rank": [_pack(_HELLO | {"rank": -7})],
    "a run of two thousand million ranks": [_pack(_HELLO | {"world_size": 2**31})],
    "a run of no ranks": [_pack(_HELLO | {"world_size": 0})],
    "a rank beyond all": [_pack(_HELLO | {"rank": 2**31})],
    "a start at NaN": [_pack(_HELLO | {"started_s": float("nan")})],
    "a step without values": [_pack(_STEP)],
    "a giant step": [_pack(_STEP | {"step": 2**63}), b"\0" * 4],
    "a step at Inf": [_pack(_STEP | {"time_s": float("inf")}), b"\0" * 4],
    "bad UTF-8": [b"\x81\xa4type\xa5\xff\xfe\xfd\xfc\xfb"],
}


@pytest.fixture
def good(agent: AgentProcess) -> FakeProbe:
    """A probe that measures while others misbehave."""
    return FakeProbe(agent.home, hello_of("run-good")).join()


def takes_steps(agent: AgentProcess, good: FakeProbe) -> bool:
    """Whether the good probe's next step arrives."""
    good.send_step(2.0)
    agent.await_run(lambda r: r.step == good.step, "run-good")
    return True


def test_frames_that_make_no_sense_are_counted_and_harm_nobody(
    agent: AgentProcess, good: FakeProbe
) -> None:
    """Each is rejected and said; no run comes of it, and the good one goes on, nothing dropped."""
    with good, FakeProbe(agent.home, hello_of("run-evil")) as evil:
        for frames in HOSTILE.values():
            evil.raw(*frames)
            assert takes_steps(agent, good)
        evil.join()
        for _ in range(3):
            evil.send_step(1.0, payload=b"\0" * 5)  # a buffer of the wrong length
        assert takes_steps(agent, good)
        runs = agent.runs()
        assert set(runs) == {"run-good", "run-evil"}
        assert (runs["run-good"].dropped, runs["run-evil"].step) == (0, 0)
        assert "rejected a message" in agent.log
        assert "Traceback" not in agent.log
        assert agent.log.count("rejected a message") <= 6  # it is not a way to fill the disk


def test_a_frame_over_the_limit_costs_its_sender_the_connection(
    agent: AgentProcess, good: FakeProbe
) -> None:
    """A mebibyte and one byte is not taken in; the others do not notice."""
    with good, FakeProbe(agent.home, hello_of("run-evil")) as evil:
        evil.raw(b"x" * (wire.MAX_FRAME_BYTES + 1))
        assert takes_steps(agent, good)
        assert "Traceback" not in agent.log


def test_any_bytes_at_all_are_survived(agent: AgentProcess, good: FakeProbe) -> None:
    """Two thousand random messages and mutilated hellos later, steps are taken as before."""
    dice = random.Random(2)
    with good, FakeProbe(agent.home, hello_of("run-evil")) as evil, Client(agent.home) as viewer:
        for _ in range(2000):
            frame = bytearray(wire.encode(hello_of("run-evil")))
            for _ in range(dice.randrange(1, 4)):
                frame[dice.randrange(len(frame))] = dice.randrange(256)
            evil.raw(*[bytes(frame), dice.randbytes(dice.randrange(40))][: dice.randrange(1, 3)])
            viewer._socket.send(dice.randbytes(dice.randrange(60)))
        assert takes_steps(agent, good)
        assert agent.process.poll() is None


def test_garbage_connections_do_not_stop_a_probe(agent: AgentProcess, good: FakeProbe) -> None:
    """Two hundred connections that speak no ZeroMQ are dropped; the good probe goes on."""
    path = agent.home.probe_endpoint.removeprefix("ipc://")
    open_ones = []
    for i in range(200):
        garbage = socket.socket(socket.AF_UNIX)
        garbage.connect(path)
        if i % 2:
            garbage.send(os.urandom(100))
        open_ones.append(garbage)
    with good:
        assert takes_steps(agent, good)
    for garbage in open_ones:
        garbage.close()


def test_another_protocol_is_refused_politely(agent: AgentProcess) -> None:
    """The probe learns why, and the run does not appear."""
    with FakeProbe(agent.home, hello_of(protocol=99)) as probe:
        probe.say(probe.hello)
        refused = probe.await_message(wire.Refused)
    assert "protocol 99" in refused.why
    assert agent.runs() == {}


def test_an_unknown_policy_is_refused_politely(agent: AgentProcess) -> None:
    """The probe learns which there are."""
    with FakeProbe(agent.home, hello_of(policy="yolo")) as probe:
        probe.say(probe.hello)
        refused = probe.await_message(wire.Refused)
    assert "guard, observe" in refused.why


def test_a_viewer_that_never_reads_costs_neither_time_nor_memory(
    agent: AgentProcess, good: FakeProbe
) -> None:
    """Large pictures do not pile up for it, and steps are taken in as before."""
    metrics = tuple(f"metric_{i}" for i in range(32))
    context = zmq.Context()
    slow = context.socket(zmq.DEALER)
    slow.set(zmq.RCVHWM, 1)
    slow.set(zmq.LINGER, 0)
    slow.connect(agent.home.viewer_endpoint)
    process = psutil.Process(agent.process.pid)
    try:
        with good, FakeProbe(agent.home, hello_of("run-big"), names=metrics) as big:
            big.join()
            for step in range(3000):
                big.send_step(*[float(step)] * 32)
            agent.await_run(lambda r: r.step == 3000, "run-big")
            before = process.memory_info().rss
            for i in range(40):
                slow.send(feed.encode(feed.Subscribe(run="run-big" if i % 2 else "run-good")))
                big.send_step(*[1.0] * 32)
                assert takes_steps(agent, good)
            assert process.memory_info().rss - before < 40 << 20
    finally:
        slow.close()
        context.term()


def test_sockets_and_files_are_for_their_owner_only(agent: AgentProcess) -> None:
    """Nobody else on the machine can read the state or give orders."""
    home = agent.home
    assert home.runtime.stat().st_mode & 0o777 == 0o700
    assert home.database_path.stat().st_mode & 0o777 == 0o600
    for name in ("agent-probes.sock", "agent-viewers.sock"):
        assert Path(home.runtime / name).is_socket()
