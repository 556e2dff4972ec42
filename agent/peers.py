"""Who a message is from, by what the transport vouches for; never by what the message says."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import zmq

from lossguard.agent.keyring import Keyring
from lossguard.connection import CURVE_OPTIONS
from lossguard.key_files import Role

_REMEMBERED = 4096
OPERATOR: Role = "operator"


@dataclass(frozen=True)
class Peer:
    """Whoever sent a message, and what it may do."""

    who: str
    """For people: ``uid 1000 pid 4711``, ``key gpu-7 at 10.0.0.7``."""
    account: str
    """What stays the same from one of its processes to the next: the uid, or the key's name."""
    role: Role
    is_local: bool = True

    @property
    def may_command(self) -> bool:
        """Whether it may give commands, and end the agent."""
        return self.role == OPERATOR


OWNER = Peer("the owner", f"uid {os.getuid()}", OPERATOR)
"""This very user, on this host."""


class Refused(Exception):
    """The peer may not speak here; says why."""


class Door(Protocol):
    """Who may come in by one socket."""

    frame_overhead_bytes: int
    """What the transport adds to every frame before it is measured."""

    def options(self) -> Mapping[int, int | bytes]:
        """What the socket has to be told before it is bound."""

    def admit(self, identity: bytes, frame: zmq.Frame) -> Peer:
        """Who sent this. Raises Refused."""

    def may_hear(self, identity: bytes) -> bool:
        """Whether what is said to this peer is still for its ears."""


def _vouched(frame: zmq.Frame, name: str) -> str:
    """What the transport says about who sent it, or empty."""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


class LocalDoor:
    """Processes of this very user. The kernel says whose they are."""

    frame_overhead_bytes = 0

    def options(self) -> Mapping[int, int | bytes]:
        """Others are turned away as they connect."""
        return {zmq.IPC_FILTER_UID: os.getuid()}

    def admit(self, identity: bytes, frame: zmq.Frame) -> Peer:
        """By the credentials that the kernel has noted: ``localhost:uid:gid:pid``."""
        _, uid, _, pid = (_vouched(frame, "Peer-Address") + ":::").split(":")[:4]
        if uid != str(os.getuid()):
            raise Refused(f"uid {uid or '?'} is not the owner of this agent")
        return Peer(f"uid {uid} pid {pid}", OWNER.account, OPERATOR)

    def may_hear(self, identity: bytes) -> bool:
        """The socket is of one process, and that does not change hands."""
        return True


class KeyDoor:
    """Whoever holds one of the known keys, in the right role; asked anew at every message."""

    frame_overhead_bytes = 64

    def __init__(self, keyring: Keyring, domain: str) -> None:
        self._keyring = keyring
        self._domain = domain
        self._keys: OrderedDict[bytes, str] = OrderedDict()
        """By routing id the key it spoke with last: what goes out is for that key alone."""

    def options(self) -> Mapping[int, int | bytes]:
        """CURVE, and nobody in where the authenticator does not answer."""
        return {
            zmq.CURVE_SERVER: 1,
            zmq.CURVE_SECRETKEY: self._keyring.agent().secret.encode(),
            zmq.ZAP_DOMAIN: self._domain.encode(),
            zmq.ZAP_ENFORCE_DOMAIN: 1,
            **dict(CURVE_OPTIONS),
        }

    def admit(self, identity: bytes, frame: zmq.Frame) -> Peer:
        """By the key that the handshake has proven, as the keys are now."""
        key = _vouched(frame, "User-Id")
        client = self._keyring.client(key, self._domain)
        if client is None:
            raise Refused(
                "the agent does not know this key any more: ask its owner to run "
                "`lossguard keys add`"
            )
        self._keys[identity] = key
        self._keys.move_to_end(identity)
        if len(self._keys) > _REMEMBERED:
            self._keys.popitem(last=False)
        where = _vouched(frame, "Peer-Address")
        return Peer(f"key {client.name} at {where}", f"key {client.name}", client.role, False)

    def may_hear(self, identity: bytes) -> bool:
        """Not once its key is revoked."""
        key = self._keys.get(identity, "")
        return self._keyring.client(key, self._domain) is not None
