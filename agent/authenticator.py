"""Asked by ZeroMQ about every key that knocks from another host (ZAP, RFC 27).

Where this does not answer, nobody gets in: the sockets enforce their domain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import zmq
from zmq.utils import z85

from lossguard.agent.keyring import Keyring

log = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_BATCH = 100


class Authenticator:
    """In the loop's thread; to be there before the sockets that need it are bound.

    ``refused(address, key, door)`` hears of every key that is turned away.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keyring: Keyring,
        refused: Callable[[str, str, str], None],
    ) -> None:
        self._keyring = keyring
        self._refused = refused
        self._socket = context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(self._socket.get(zmq.FD))
        self._loop.add_reader(self._descriptor, self.drain)
        self._closed = False

    def drain(self) -> None:
        """Answer what is waiting: the descriptor tells of changes only, so until it is empty."""
        for _ in range(_BATCH):
            if self._closed:
                return
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._answer(request)
            except Exception:  # no answer is a refusal, as soon as the handshake takes too long
                log.exception("a handshake could not be judged; nobody is let in by it")
        self._loop.call_soon(self.drain)

    def _answer(self, request: list[bytes]) -> None:
        back = request.index(b"") + 1
        version, number, domain, address, _, mechanism, *credentials = request[back:]
        door = domain.decode()
        key = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" else ""
        known = version == _VERSION and self._keyring.client(key, door) is not None
        if not known:
            self._refused(address.decode(errors="replace"), key, door)
        status, text = (b"200", b"OK") if known else (b"400", b"unknown key")
        user = key.encode() if known else b""
        self._socket.send_multipart(
            [*request[:back], _VERSION, number, status, text, user, b""], zmq.NOBLOCK
        )

    def close(self) -> None:
        """Idempotent. Nobody new gets in from now on."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self._socket.close()
