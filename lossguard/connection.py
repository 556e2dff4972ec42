"""One side's socket to the agent, of this host or of another one, and why it does not stand.

To this host's agent over ipc, where the file system says who may. To another host's over TCP, where
keys do: CURVE encrypts, and both sides prove who they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import zmq
from zmq.utils.monitor import parse_monitor_message

from lossguard.errors import ConfigError
from lossguard.home import Home
from lossguard.key_files import KeyFile, read_key_file

Socket = zmq.Socket[bytes]
Side = Literal["probes", "viewers"]

RETRY_S = 3.0
"""A refused socket never connects again by itself: a new one is made after this long [s]."""
_PATIENCE_S = 2.0
"""Connecting for so long without an answer is worth a word [s]."""

CURVE_OPTIONS = (
    (zmq.HEARTBEAT_IVL, 2000),
    (zmq.HEARTBEAT_TIMEOUT, 6000),
    (zmq.HEARTBEAT_TTL, 6000),
)
"""Over a network a peer may vanish without a word [ms]; on one host the kernel tells."""

_NEWS = (
    zmq.Event.CONNECT_DELAYED
    | zmq.Event.CONNECT_RETRIED
    | zmq.Event.CONNECTED
    | zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
)


def prove(socket: Socket, key: KeyFile) -> None:
    """Let a socket that is not connected yet prove that it has this key, and ask the same of the
    agent."""
    socket.set(zmq.CURVE_SERVERKEY, key.agent.encode())
    socket.set(zmq.CURVE_PUBLICKEY, key.public.encode())
    socket.set(zmq.CURVE_SECRETKEY, key.secret.encode())


class Connection:
    """A DEALER; ``socket`` is the one to use now, ``trouble`` why it does not stand, or empty.

    Making it blocks on nothing and needs no agent. Raises ConfigError on an address or a key file
    that makes no sense. Not thread-safe; ``look`` is to be called a few times a second.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        home: Home,
        side: Side,
        options: Mapping[zmq.SocketOption, int],
    ) -> None:
        self._context = context
        self._home = home
        self._side: Side = side
        self._options = dict(options)
        self._monitor: Socket | None = None
        self._key: KeyFile | None = None
        self._begun_s = time.monotonic()
        self._last = zmq.Event.CONNECT_DELAYED
        self._renew_s = float("inf")
        self.endpoint = home.probe_endpoint if side == "probes" else home.viewer_endpoint
        self.trouble = ""
        self.is_refused = False
        """Whoever is there has said no; it is asked again after a while."""
        self.socket = self._open()

    def _open(self) -> Socket:
        key = _key_for(self._home, self._side) if self._home.remote else None
        socket = self._context.socket(zmq.DEALER)
        for option, value in self._options.items():
            socket.set(option, value)
        if key is not None:
            for option, value in CURVE_OPTIONS:
                socket.set(option, value)
            socket.set(zmq.IPV6, int("[" in self.endpoint))
            prove(socket, key)
            self._monitor = socket.get_monitor_socket(_NEWS)
            self._key = key
        self._begun_s = time.monotonic()
        socket.connect(self.endpoint)
        return socket

    @property
    def is_open(self) -> bool:
        """Whether both sides of a connection to another host have proven who they are."""
        return self._last == zmq.Event.HANDSHAKE_SUCCEEDED

    def look(self) -> None:
        """Take in what has become of the connection, and make it anew where only that helps."""
        monitor = self._monitor
        if monitor is None:
            return
        while monitor.poll(0):
            self._take(zmq.Event(parse_monitor_message(monitor.recv_multipart())["event"]))
        now = time.monotonic()
        waits = self._last in (zmq.Event.CONNECT_DELAYED, zmq.Event.CONNECTED)
        if waits and not self.trouble and now - self._begun_s > _PATIENCE_S:
            self.trouble = f"{self.endpoint} does not answer: is the host, and the port, right?"
        if now >= self._renew_s:
            self._again()

    def _take(self, event: zmq.Event) -> None:
        before, self._last = self._last, event
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.trouble, self.is_refused = "", False
        elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            self.refused(
                f"the agent at {self.endpoint} does not know this key{self._named()}: ask its "
                "owner to run `lossguard keys add`"
            )
        elif event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            self.trouble = (
                f"the agent at {self.endpoint} has another key than {self._home.key_file} says, "
                "or lets nobody in: ask its owner for a new file (`lossguard keys rotate`)"
            )
        elif event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
            self.trouble = f"what listens at {self.endpoint} is no lossguard agent"
        elif event == zmq.Event.CLOSED:
            self.trouble = f"nothing listens at {self.endpoint}: `lossguard agent --listen` there?"
        elif event == zmq.Event.CONNECT_RETRIED and before == zmq.Event.CONNECT_RETRIED:
            self.trouble = f"there is no host of the name in {self.endpoint}"
        elif event == zmq.Event.DISCONNECTED and before == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.trouble = f"the connection to {self.endpoint} is lost"

    def _named(self) -> str:
        return f" ({self._key.name}, {self._key.role})" if self._key is not None else ""

    def refused(self, why: str) -> None:
        """Whoever is there does not want us: ask again soon, with the key file as it is then."""
        self.trouble = why
        if not self.is_refused:
            self.is_refused = True
            self._renew_s = time.monotonic() + RETRY_S

    def _again(self) -> None:
        self._renew_s = time.monotonic() + RETRY_S
        old, monitor = self.socket, self._monitor
        try:
            self.socket = self._open()
        except ConfigError as error:
            self.trouble = str(error)
            return
        self._renew_s = float("inf")
        self.is_refused = False
        _close(old, monitor, linger=0)

    def close(self, linger: int) -> None:
        """Give what is still to be sent ``linger`` [ms]. Idempotent."""
        _close(self.socket, self._monitor, linger)
        self._monitor = None


def _close(socket: Socket, monitor: Socket | None, linger: int) -> None:
    if monitor is not None and not socket.closed:
        socket.disable_monitor()
        monitor.close(linger=0)
    socket.close(linger=linger)


def _key_for(home: Home, side: Side) -> KeyFile:
    if home.key_file is None:
        raise ConfigError(
            f"LOSSGUARD_AGENT names the agent {home.remote}, and no key: let LOSSGUARD_KEY_FILE "
            "name the file that `lossguard keys add` wrote"
        )
    if not zmq.has("curve"):
        raise ConfigError("this libzmq has no CURVE, and without it no agent of another host is "
                          "talked to: pip install --force-reinstall pyzmq")  # fmt: skip
    key = read_key_file(home.key_file)
    if (key.role == "probe") != (side == "probes"):
        wanted = "probe" if side == "probes" else "viewer or operator"
        raise ConfigError(f"{home.key_file}: is a key of a {key.role}; wanted is one of a {wanted}")
    return key
