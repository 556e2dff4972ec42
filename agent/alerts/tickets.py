"""What a button carries: what it is for, signed, so that nobody can make or change one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from lossguard.errors import ConfigError
from lossguard.key_files import replace_private

log = logging.getLogger(__name__)

Offer: TypeAlias = Literal["ack", "mute", "skip", "rollback", "stop"]
"""All that a button can ever do."""
PREFIX = "slack"
"""What the ids of the commands of buttons begin with."""
LIFETIME_S = 86_400.0
"""A button is good for so long [s]; those of what goes on are made anew in half the time."""
_KEY_BYTES = 32
_PURPOSE = b"lossguard button 1\0"
_MOST_CHARACTERS = 2000
"""Of a value; Slack takes no more."""


class Forged(Exception):
    """It was not made with this key, or not by this version."""


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """Good for one action about one incident, once."""

    run: str
    incident: str
    action: Offer
    round: int
    """How often the trouble had come back: each time there are new buttons."""
    onset: int
    """The step that the trouble began at, as whoever pressed the button was told."""
    expires: float
    """Wall clock [s since the epoch]."""

    @property
    def command(self) -> str:
        """The id of its command: the same for the same button, however often it is made anew."""
        number = self.incident.rpartition(".")[2]
        digest = hashlib.sha256(self.run.encode()).hexdigest()[:12]
        return f"{PREFIX}.{digest}.{number}.{self.round}.{self.action}"


def seal(ticket: Ticket, key: bytes) -> str:
    """The value of the button."""
    body = msgspec.msgpack.encode(ticket)
    return base64.b64encode(_mac(body, key) + body).decode()


def unseal(value: str, key: bytes) -> Ticket:
    """Raises Forged. Whether it has expired is not looked at."""
    if len(value) > _MOST_CHARACTERS:
        raise Forged
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Forged from None
    mac, body = raw[:_KEY_BYTES], raw[_KEY_BYTES:]
    if base64.b64encode(raw).decode() != value:  # the same in other words
        raise Forged
    if not hmac.compare_digest(mac, _mac(body, key)):
        raise Forged
    try:
        return msgspec.msgpack.decode(body, type=Ticket)
    except msgspec.DecodeError:
        raise Forged from None


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.new(key, _PURPOSE + body, hashlib.sha256).digest()


def key_at(path: Path) -> bytes:
    """The key in this file, which is made where it is missing, or where others could read it:
    buttons made with another one are refused from then on. Raises ConfigError."""
    try:
        key = _read(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: the key of buttons cannot be read ({error.strerror})"
        ) from error
    if key is None:
        key = secrets.token_bytes(_KEY_BYTES)
        replace_private(path, key)
    return key


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        info, key = os.fstat(descriptor), file.read(_KEY_BYTES + 1)
    if stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid != os.getuid() or len(key) != _KEY_BYTES:
        log.warning("%s could be read by others or is damaged: there is a new key of buttons", path)
        return None
    return key
