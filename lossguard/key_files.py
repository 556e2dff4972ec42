"""Key files: what one key is, how a file of secrets is written, and when one is not believed."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lossguard.errors import ConfigError

Role = Literal["probe", "viewer", "operator"]
"""What whoever holds a key may do: report a run and obey; look on; look on and give commands."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
"""What a key may be called."""
_MAX_BYTES = 1 << 20

KeyText = Annotated[str, msgspec.Meta(min_length=40, max_length=40)]
"""A CURVE key in Z85, as ZeroMQ writes it."""


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a client on another host needs: its own key, and that of the agent."""

    name: str
    role: Role
    agent: KeyText
    """The public key of the agent: no other is talked to."""
    public: KeyText
    secret: KeyText


def read_key_file(path: Path) -> KeyFile:
    """Raises ConfigError: not there, open to others, or no key; says what to type."""
    try:
        return msgspec.json.decode(read_private(path), type=KeyFile)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{path}: is no key file ({error}); `lossguard keys add NAME -o FILE` writes one, on "
            "the host of the agent"
        ) from error


def read_private(path: Path) -> bytes:
    """A file that nobody else can read. Raises ConfigError where that is not so."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError(f"{path}: is no plain file")
        if info.st_uid != os.getuid():
            raise ConfigError(
                f"{path}: belongs to uid {info.st_uid}, not to you ({os.getuid()}); type: "
                f"sudo chown {os.getuid()} {path}"
            )
        if info.st_mode & 0o077:
            raise ConfigError(
                f"{path}: others may read or write it (mode {stat.S_IMODE(info.st_mode):04o}); "
                f"type: chmod 600 {path}"
            )
        return file.read(_MAX_BYTES)


def write_private(path: Path, content: bytes) -> None:
    """A new file, 0600 from its first byte on. Raises ConfigError, also where there is one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask takes away
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise ConfigError(f"{path}: is there already; nothing is overwritten") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def replace_private(path: Path, content: bytes) -> None:
    """Whole or not at all, over what is there. Raises ConfigError."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        write_private(new, content)
        os.replace(new, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
