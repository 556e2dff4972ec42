"""A ROUTER socket inside an asyncio loop, drained in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import zmq

from lossguard.agent.peers import Door, Peer, Refused
from lossguard.probes import wire

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]
_BATCH = 512
_MAX_FRAMES = 2
MAX_MESSAGE_BYTES = wire.MAX_FRAME_BYTES + (1 << 16)
"""No message is larger, all of its frames together: a buffer of values, and its header."""


class Router:
    """Hands every message to ``take(identity, frames, peer)`` in the loop's thread.

    ``door`` says who may speak here. Whoever may not is told why by ``refusal(frames, why)``, and
    ``take`` hears nothing of it. Identities begin with ``mark``, which tells the peers of several
    routers apart.

    libzmq's file descriptor is edge-triggered, so it is drained until empty (in batches, so that
    the loop's other work gets its turn) and after every send as well. ``queue`` messages wait
    for a peer that does not read.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        endpoint: str,
        take: Callable[[bytes, list[bytes], Peer], None],
        *,
        door: Door,
        refusal: Callable[[bytes, str], bytes],
        mark: bytes,
        queue: int = 1000,
        most_frame_bytes: int = wire.MAX_FRAME_BYTES,
    ) -> None:
        self._take = take
        self._door = door
        self._refusal = refusal
        self._endpoint = endpoint
        self.mark = mark
        self._socket = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 300),
            (zmq.SNDHWM, queue),
            (zmq.RCVHWM, 1000),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, most_frame_bytes + door.frame_overhead_bytes),
            (zmq.HANDSHAKE_IVL, 2000),
            (zmq.IPV6, int("[" in endpoint)),
            *door.options().items(),
        ):
            self._socket.set(option, value)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError:
            self._socket.close(linger=0)
            raise
        self._is_bound = True
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._closed = False
        self._descriptor = int(self._socket.get(zmq.FD))
        self._loop.add_reader(self._descriptor, self.drain)
        self.taken = 0
        self.rejected = 0
        self.failed = 0
        self.refused = 0

    def drain(self) -> None:
        """Take in what is waiting."""
        self._again = None
        for _ in range(_BATCH):
            if self._closed:
                return
            try:
                first = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            identity = self.mark + first.bytes
            frames: list[bytes] = []
            try:
                # What is too much is taken out of the socket all the same, and kept by nobody.
                sizes = self._rest_of(first, frames)
                peer = self._door.admit(identity, first)
                if not 1 <= len(sizes) <= _MAX_FRAMES or sum(sizes) > MAX_MESSAGE_BYTES:
                    raise ValueError(f"{len(sizes)} frames, {sum(sizes)} bytes")
                self._take(identity, frames, peer)
                self.taken += 1
            except Refused as why:
                self._refuse(identity, frames, str(why))
            except ValueError as error:
                self._reject(error)
            except Exception:
                self._fail()
        self._soon()

    def _rest_of(self, first: zmq.Frame, frames: list[bytes]) -> list[int]:
        """The sizes of all further frames of a message; the frames themselves, if not too many."""
        sizes: list[int] = []
        more = first.more
        while more:
            frame = self._socket.recv(zmq.NOBLOCK)
            sizes.append(len(frame))
            if len(sizes) <= _MAX_FRAMES:
                frames.append(frame)
            more = bool(self._socket.get(zmq.RCVMORE))
        return sizes

    def _soon(self) -> None:
        if self._again is None and not self._closed:
            self._again = self._loop.call_soon(self.drain)

    def _refuse(self, identity: bytes, frames: list[bytes], why: str) -> None:
        self.refused += 1
        if self.refused <= 5 or self.refused % 1000 == 0:
            log.warning("refused a message: %s; %d so far", why, self.refused)
        try:
            answer = self._refusal(frames[0] if frames else b"", why)
        except ValueError:
            return
        self._send(identity, answer)

    def _fail(self) -> None:
        self.failed += 1
        if self.failed <= 5 or self.failed % 1000 == 0:
            log.exception("a message could not be handled; %d so far", self.failed)

    def _reject(self, error: ValueError) -> None:
        self.rejected += 1
        if self.rejected <= 5 or self.rejected % 1000 == 0:
            log.warning("rejected a message that makes no sense (%s); %d so far",
                        error, self.rejected)  # fmt: skip

    def send(self, identity: bytes, frame: bytes) -> bool:
        """Never waits; False when the peer is gone, does not keep up, or may hear no more."""
        return self._door.may_hear(identity) and self._send(identity, frame)

    def _send(self, identity: bytes, frame: bytes) -> bool:
        try:
            self._socket.send_multipart([identity[len(self.mark) :], frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        finally:
            self._soon()
        return True

    def bind_again(self) -> bool:
        """With the door's options as they are now: every connection is cut. False while the address
        is not free yet; to be called again then."""
        for option, value in self._door.options().items():
            self._socket.set(option, value)
        try:
            if self._is_bound:
                self._is_bound = False
                self._socket.unbind(self._endpoint)
            self._socket.bind(self._endpoint)
        except zmq.ZMQError:
            return False
        self._is_bound = True
        return True

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self._socket.close()
