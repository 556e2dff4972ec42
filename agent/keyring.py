"""The keys of an agent: its own, and those of the clients it knows. Changed by ``lossguard keys``,
looked up by the agent at every message from another host."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zmq

from lossguard.errors import ConfigError, UsageError
from lossguard.home import Home, require_private
from lossguard.key_files import (
    NAME,
    KeyFile,
    KeyText,
    Role,
    read_private,
    replace_private,
    write_private,
)

log = logging.getLogger(__name__)

PROBES = "probes"
VIEWERS = "viewers"
_DOORS: dict[Role, str] = {"probe": PROBES, "viewer": VIEWERS, "operator": VIEWERS}
_MOST_CLIENTS = 10_000


class AgentKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Proves to clients that they talk to this agent."""

    public: KeyText
    secret: KeyText


class ClientKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client that is known. Its secret is in the client's own file alone."""

    name: str
    role: Role
    public: KeyText
    added: float
    """Wall clock [s since the epoch]."""


class Keyring:
    """Raises ConfigError where a file is open to others, or makes no sense."""

    def __init__(self, home: Home) -> None:
        self.folder = home.keys_path
        self._agent_path = self.folder / "agent.key"
        self._clients_path = self.folder / "clients.json"
        self._seen: object = None
        self._known: dict[str, ClientKey] = {}

    # --- for the agent ----------------------------------------------------------------------

    def agent(self) -> AgentKey:
        """Its own key. Raises ConfigError, also where there is none yet."""
        if not self._agent_path.exists():
            raise ConfigError(f"{self._agent_path}: there is no key yet; type: lossguard keys init")
        try:
            return msgspec.json.decode(read_private(self._agent_path), type=AgentKey)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self._agent_path}: is no key of an agent ({error})") from error

    def client(self, public: str, door: str) -> ClientKey | None:
        """Who holds this key and may come in by this door, as the files are now; else None.

        Costs one ``stat``. A file that cannot be believed knows nobody.
        """
        if (seen := _stamp(self._clients_path)) != self._seen or seen is None:
            self._seen = seen
            self._known = self._read_or_nobody()
        known = self._known.get(public)
        return known if known is not None and _DOORS[known.role] == door else None

    def _read_or_nobody(self) -> dict[str, ClientKey]:
        try:
            return {one.public: one for one in self.clients()}
        except ConfigError as error:
            log.error("nobody from another host is let in: %s", error)
            return {}

    # --- for `lossguard keys` -----------------------------------------------------------------

    def clients(self) -> list[ClientKey]:
        """All that are known, oldest first. Raises ConfigError."""
        if not self._clients_path.exists():
            return []
        try:
            return msgspec.json.decode(read_private(self._clients_path), type=list[ClientKey])
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self._clients_path}: is no list of keys ({error})") from error

    def init(self) -> AgentKey:
        """Make the agent's key. Raises ConfigError where there is one."""
        with self._changing():
            write_private(self._agent_path, msgspec.json.encode(key := _new_agent_key()))
        return key

    def rotate_agent(self) -> AgentKey:
        """Another key for the agent: every client needs a new file. Raises ConfigError."""
        with self._changing():
            self.agent()
            replace_private(self._agent_path, msgspec.json.encode(key := _new_agent_key()))
        return key

    def add(self, name: str, role: Role, file: Path, *, replaces: bool = False) -> ClientKey:
        """Make a key for a client, and write all that the client needs into ``file``.

        With ``replaces`` the one of this name is known no more from now on. Raises ConfigError, and
        UsageError for a name that is taken, or that there is not.
        """
        if not NAME.match(name):
            raise UsageError(f"not a name for a key: {name[:80]!r}; wanted are A-Z a-z 0-9 . _ -")
        with self._changing():
            agent, known = self.agent(), self.clients()
            others = [one for one in known if one.name != name]
            if not replaces and len(others) < len(known):
                raise UsageError(f"there is a key {name!r} already: rotate or revoke it")
            if len(others) >= _MOST_CLIENTS:
                raise UsageError(f"there are {_MOST_CLIENTS} keys already: revoke some")
            public, secret = (part.decode() for part in zmq.curve_keypair())
            key = ClientKey(name=name, role=role, public=public, added=time.time())
            content = KeyFile(
                name=name, role=role, agent=agent.public, public=public, secret=secret
            )
            write_private(file, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
            self._write([*others, key])
        return key

    def rotate(self, name: str, file: Path) -> ClientKey:
        """A new key in place of the one of this name, in the same role."""
        return self.add(name, self._named(name).role, file, replaces=True)

    def revoke(self, name: str) -> ClientKey:
        """Forget it: what comes with it from now on is refused. Raises UsageError."""
        with self._changing():
            key = self._named(name)
            self._write([one for one in self.clients() if one.name != name])
        return key

    def _named(self, name: str) -> ClientKey:
        found = [one for one in self.clients() if one.name == name]
        if not found:
            raise UsageError(f"there is no key {name[:80]!r}; `lossguard keys list` shows them")
        return found[0]

    def _write(self, clients: list[ClientKey]) -> None:
        replace_private(self._clients_path, msgspec.json.encode(clients))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One at a time; the folder is ours alone."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            require_private(self.folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.folder / "lock", flags, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be used ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _new_agent_key() -> AgentKey:
    public, secret = (part.decode() for part in zmq.curve_keypair())
    return AgentKey(public=public, secret=secret)


def _stamp(path: Path) -> object:
    """Changes with the file: it is only ever replaced whole, by another one."""
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_mode, info.st_size)
