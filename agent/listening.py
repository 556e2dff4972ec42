"""Serving probes and viewers of other hosts: over TCP with CURVE, for known keys, or not at all."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

import zmq

from lossguard.agent import feed
from lossguard.agent.audit import AuditLine, AuditLog
from lossguard.agent.authenticator import Authenticator
from lossguard.agent.growth import MOST_BYTES, Growth
from lossguard.agent.keyring import PROBES, VIEWERS, Keyring
from lossguard.agent.listen_settings import ListenSettings
from lossguard.agent.peers import KeyDoor, Peer
from lossguard.agent.sockets import Router
from lossguard.errors import ConfigError
from lossguard.home import tcp_endpoints
from lossguard.probes import wire

log = logging.getLogger(__name__)

_REQUEST_BYTES = 1 << 16
"""Nothing that a viewer asks for is longer."""
PICTURES_WAITING = 8
"""Pictures are large: no more wait for a viewer that does not read."""
_WILDCARDS = ("*", "0.0.0.0", "[::]")
_SAY_AGAIN_S = 60.0
_STRANGERS = "unknown keys"
"""All of them share what is written down of refused connections one by one."""

Take = Callable[[bytes, list[bytes], Peer], None]


def check_listening(settings: ListenSettings, keyring: Keyring) -> None:
    """Raises ConfigError for what would not be safe, or cannot be."""
    host = tcp_endpoints(settings.tcp)[0].removeprefix("tcp://").rpartition(":")[0]
    if not zmq.has("curve"):
        raise ConfigError("this libzmq has no CURVE, and without it other hosts are not served: "
                          "pip install --force-reinstall pyzmq")  # fmt: skip
    keyring.agent()
    known = keyring.clients()
    if host not in _WILDCARDS:
        return
    if not settings.anywhere:
        raise ConfigError(
            f"{settings.tcp} is every network that this host is in: name the address of one of "
            "them, or say that you mean it with --anywhere ([listen] anywhere = true)"
        )
    if not known:
        raise ConfigError(
            f"{settings.tcp} is every network that this host is in, and there is no client's key "
            "yet; type: lossguard keys add NAME --role probe -o FILE"
        )


class Listening:
    """Two routers and the authenticator that they need. Raises ConfigError where one cannot be."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        settings: ListenSettings,
        keyring: Keyring,
        take_probe: Take,
        take_viewer: Take,
        audit: AuditLog,
    ) -> None:
        check_listening(settings, keyring)
        self._keyring = keyring
        self._audit = audit
        self._said: OrderedDict[str, float] = OrderedDict()
        self._public = keyring.agent().public
        self._to_bind: list[Router] = []
        self._growth = Growth()
        self._authenticator = Authenticator(context, keyring, self._turned_away)
        at_probes, at_viewers = tcp_endpoints(settings.tcp)
        self.probes = self._router(context, at_probes, take_probe, PROBES, b"P")
        self.viewers = self._router(context, at_viewers, take_viewer, VIEWERS, b"V")
        log.info("probes of other hosts connect to %s, viewers to %s", at_probes, at_viewers)

    def _router(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        take: Take,
        domain: str,
        mark: bytes,
    ) -> Router:
        is_for_probes = domain == PROBES
        try:
            return Router(
                context,
                endpoint,
                take,
                door=KeyDoor(self._keyring, domain),
                refusal=refusal_to_probe if is_for_probes else refusal_to_viewer,
                mark=mark,
                queue=1000 if is_for_probes else PICTURES_WAITING,
                most_frame_bytes=wire.MAX_FRAME_BYTES if is_for_probes else _REQUEST_BYTES,
            )
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"{endpoint} cannot be listened at: {error.strerror}") from error

    def tick(self) -> None:
        """Take in a new key of the agent: whoever is connected must prove the new one. And cut off
        everybody where somebody may be filling the memory."""
        self._authenticator.drain()
        try:
            public = self._keyring.agent().public
        except ConfigError as error:
            self._say("agent.key", "this agent", f"its key cannot be used any more: {error}")
            return
        if public != self._public:
            log.warning("the agent has a new key: clients need new files")
            self._public = public
            self._to_bind = [self.probes, self.viewers]
        if self._growth.is_too_much():
            log.error("the agent has grown by %d MiB: clients of other hosts are cut off and may "
                      "come again", MOST_BYTES >> 20)  # fmt: skip
            self._to_bind = [self.probes, self.viewers]
        self._to_bind = [router for router in self._to_bind if not router.bind_again()]

    def _turned_away(self, address: str, key: str, door: str) -> None:
        what = f"{address} came to the {door}' port with a key that is not known there"
        self._say(key, _STRANGERS, what)

    def _say(self, about: str, account: str, what: str) -> None:
        """In the log and the audit log; the same again only after a while, and few an hour."""
        now = time.monotonic()
        if now - self._said.get(about, float("-inf")) < _SAY_AGAIN_S:
            return
        self._said[about] = now
        self._said.move_to_end(about)
        if len(self._said) > 100:
            self._said.popitem(last=False)
        line = AuditLine(
            time=time.time(), who=f"key {about[:8]}...", verb="connect", result="refused", why=what
        )
        if self._audit.refuse(line, account):  # a new key a knock costs nobody anything
            log.warning("%s", what)

    def close(self) -> None:
        """Idempotent."""
        for name in ("probes", "viewers"):
            if (router := getattr(self, name, None)) is not None:
                router.close()
        self._authenticator.close()


def refusal_to_probe(frame: bytes, why: str) -> bytes:
    """Raises ValueError where that was no probe's message."""
    run = wire.decode_from_probe(frame).run
    return wire.encode(wire.Refused(run=run, why=why, ask_again=True))


def refusal_to_viewer(frame: bytes, why: str) -> bytes:
    """Raises ValueError where that was no viewer's message."""
    message = feed.decode_from_viewer(frame)
    command = message.command if isinstance(message, feed.SendCommand) else ""
    return feed.encode(feed.Trouble(why=why, command=command))
