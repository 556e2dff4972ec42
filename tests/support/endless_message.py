"""A message that never ends, in a process of its own: its memory is what is measured.

python -m tests.support.endless_message
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping

import zmq

from lossguard.agent.growth import Growth, give_back, own_memory
from lossguard.agent.listening import refusal_to_viewer
from lossguard.agent.peers import OWNER, Peer
from lossguard.agent.sockets import Router
from tests.support.ports import free_port
from tests.support.waiting import eventually

MIB = 1 << 20
_GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\0NULL" + b"\0" * 48
_READY = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
_MORE_IS_TO_COME = 3


class OpenDoor:
    """Lets everybody in, so that no handshake has to be written by hand."""

    frame_overhead_bytes = 0

    def options(self) -> Mapping[int, int | bytes]:
        return {}

    def admit(self, identity: bytes, frame: zmq.Frame) -> Peer:
        return OWNER

    def may_hear(self, identity: bytes) -> bool:
        return True


async def cut_off() -> None:
    """64 frames of a mebibyte each, no one too large, none the last."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    port = free_port()
    heard: list[int] = []
    router = Router(
        context,
        f"tcp://127.0.0.1:{port}",
        lambda identity, frames, peer: heard.append(len(frames)),
        door=OpenDoor(),
        refusal=refusal_to_viewer,
        mark=b"x",
    )
    growth = Growth(most_bytes=32 * MIB)
    assert not growth.is_too_much()
    before = own_memory()
    with socket.create_connection(("127.0.0.1", port)) as evil:
        evil.sendall(_GREETING)
        evil.recv(64)
        evil.sendall(b"\x04" + bytes([len(_READY)]) + _READY)
        for _ in range(64):
            evil.sendall(struct.pack(">BQ", _MORE_IS_TO_COME, MIB) + b"x" * MIB)
        eventually(lambda: own_memory() - before > 48 * MIB)
        router.drain()
        assert heard == []
        assert growth.is_too_much()
        eventually(router.bind_again)

        def freed() -> bool:
            router.drain()
            give_back()
            return own_memory() - before < 24 * MIB

        eventually(freed)
        assert not growth.is_too_much()
    router.close()
    context.term()


if __name__ == "__main__":
    asyncio.run(cut_off())
