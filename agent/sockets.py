"""A ROUTER socket inside an asyncio loop, drained in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import zmq

from lossguard.probes import wire

log = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]
_BATCH = 512
_MAX_FRAMES = 4


class Router:
    """Hands every message to ``take(identity, frames)`` in the loop's thread.

    libzmq's file descriptor is edge-triggered, so it is drained until empty (in batches, so that
    the loop's other work gets its turn) and after every send as well. ``queue`` messages wait
    for a peer that does not read.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        endpoint: str,
        take: Callable[[bytes, list[bytes]], None],
        *,
        queue: int = 1000,
    ) -> None:
        self._take = take
        self._socket = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 300),
            (zmq.SNDHWM, queue),
            (zmq.RCVHWM, 10_000),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES),
            (zmq.HANDSHAKE_IVL, 2000),
        ):
            self._socket.set(option, value)
        self._socket.bind(endpoint)
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._closed = False
        self._descriptor = int(self._socket.get(zmq.FD))
        self._loop.add_reader(self._descriptor, self.drain)
        self.rejected = 0
        self.failed = 0

    def drain(self) -> None:
        """Take in what is waiting."""
        self._again = None
        for _ in range(_BATCH):
            if self._closed:
                return
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if not 1 <= len(frames) <= _MAX_FRAMES:
                    raise ValueError(f"{len(frames)} frames")
                self._take(identity, frames)
            except ValueError as error:
                self._reject(error)
            except Exception:
                self._fail()
        self._soon()

    def _soon(self) -> None:
        if self._again is None and not self._closed:
            self._again = self._loop.call_soon(self.drain)

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
        """Never waits; False when the peer is gone or does not keep up."""
        try:
            self._socket.send_multipart([identity, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        finally:
            self._soon()
        return True

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self._socket.close()
