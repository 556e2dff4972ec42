"""Where Lossguard keeps things: state, sockets, logs, settings.

``LOSSGUARD_HOME`` puts everything under one directory; otherwise platformdirs decides.
Both sides use this module, so that a probe and an agent of the same user always meet.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from lossguard.errors import ConfigError, UsageError

# sun_path holds 108 bytes on Linux; libzmq wants its terminating zero (zmq.IPC_PATH_MAX_LEN).
IPC_PATH_MAX = 107
_LONGEST_SOCKET = "agent-viewers.sock"
_REMOTE = re.compile(r"tcp://(?P<host>[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]|\*):(?P<port>\d{1,5})\Z")


@dataclass(frozen=True)
class Home:
    """The directories of one user's Lossguard.

    ``state`` holds the database and incident bundles, ``runtime`` the sockets, the lock and
    the pid file, ``logs`` what an agent started in the background prints, ``config`` what people
    write: settings of the agent, keys. ``remote`` is the agent of another host and ``key_file`` the
    key to it; where it is empty, the agent is the one of this host.
    """

    state: Path
    runtime: Path
    logs: Path
    config: Path
    remote: str = ""
    key_file: Path | None = None

    @property
    def probe_endpoint(self) -> str:
        """The ZeroMQ address training processes connect to. Raises ConfigError, where remote."""
        if self.remote:
            return tcp_endpoints(self.remote)[0]
        return f"ipc://{self.runtime / 'agent-probes.sock'}"

    @property
    def viewer_endpoint(self) -> str:
        """The address the command line and dashboards connect to. Raises ConfigError, as above."""
        if self.remote:
            return tcp_endpoints(self.remote)[1]
        return f"ipc://{self.runtime / _LONGEST_SOCKET}"

    @property
    def here(self) -> Home:
        """The same, with the agent of this host."""
        return replace(self, remote="", key_file=None)

    def require_here(self, what: str, commands: str) -> None:
        """Raises UsageError where the agent is that of another host: ``what`` lies there, and is
        looked at with ``commands``."""
        if self.remote:
            raise UsageError(
                f"LOSSGUARD_AGENT names the agent {self.remote}, and {what} lies on its host: "
                f"say {commands} there"
            )

    @property
    def lock_path(self) -> Path:
        return self.runtime / "agent.lock"

    @property
    def state_lock_path(self) -> Path:
        """Whose holder writes the state: one at a time, wherever its sockets are."""
        return self.state / "agent.lock"

    @property
    def database_path(self) -> Path:
        return self.state / "lossguard.db"

    @property
    def settings_path(self) -> Path:
        """The agent's settings; need not be there."""
        return self.config / "agent.toml"

    @property
    def keys_path(self) -> Path:
        """The agent's own key, and those it knows."""
        return self.config / "keys"

    @property
    def audit_path(self) -> Path:
        """Every command that was given, by whom."""
        return self.state / "audit.jsonl"

    @property
    def agent_log_path(self) -> Path:
        return self.logs / "agent.log"

    def create(self) -> Home:
        """Make the directories, private to this user.

        Raises ConfigError where one cannot be made, and where the runtime directory belongs to
        somebody else or is a link: whoever owns it could take the place of the agent.
        """
        for path in (self.state, self.logs, self.runtime):
            try:
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ConfigError(
                    f"{path} cannot be made a directory ({error.strerror}); set LOSSGUARD_HOME "
                    "to one of your own"
                ) from error
        require_private(self.runtime)
        return self


_told: Home | None = None


def meet_at(home: Home | None) -> None:
    """The home of this process from now on, whatever its environment says; None: by that again.

    For a process that somebody attached to, who may live elsewhere than it did when it began.
    """
    global _told
    _told = home


def find_home() -> Home:
    """The home of this user, by ``LOSSGUARD_HOME`` or the platform's conventions.

    ``LOSSGUARD_STATE`` puts the state elsewhere; ``LOSSGUARD_AGENT`` names the agent of another
    host, tcp://HOST:PORT, and ``LOSSGUARD_KEY_FILE`` the key to it.
    """
    if _told is not None:
        return _told
    home = _own_home()
    if state := os.environ.get("LOSSGUARD_STATE"):
        home = replace(home, state=Path(state).expanduser().absolute())
    if remote := os.environ.get("LOSSGUARD_AGENT", "").strip():
        home = at_agent(home, remote)
    return home


def at_agent(home: Home, remote: str) -> Home:
    """The home, with the agent of another host; the key to it is in ``LOSSGUARD_KEY_FILE``."""
    named = os.environ.get("LOSSGUARD_KEY_FILE")
    return replace(
        home, remote=remote, key_file=Path(named).expanduser().absolute() if named else None
    )


def tcp_endpoints(address: str) -> tuple[str, str]:
    """Where probes and where viewers connect: tcp://HOST:PORT, and the port after it.

    Raises ConfigError.
    """
    match = _REMOTE.match(address)
    if match is None or not 1 <= int(match["port"]) <= 65534:
        raise ConfigError(
            f"{address!r} is no address of an agent; wanted is tcp://HOST:PORT, say "
            "tcp://10.0.0.5:7700 (probes connect there, viewers to the port after it)"
        )
    return (
        f"tcp://{match['host']}:{match['port']}",
        f"tcp://{match['host']}:{int(match['port']) + 1}",
    )


def _own_home() -> Home:
    if root := os.environ.get("LOSSGUARD_HOME"):
        base = Path(root).expanduser().absolute()
        return Home(
            state=base / "state",
            runtime=_short_enough(base / "run"),
            logs=base / "logs",
            config=base / "config",
        )
    import platformdirs

    runtime = os.environ.get("XDG_RUNTIME_DIR")
    run_dir = Path(runtime) / "lossguard" if runtime else _private_tmp()
    return Home(
        state=platformdirs.user_state_path("lossguard"),
        runtime=_short_enough(run_dir),
        logs=platformdirs.user_log_path("lossguard"),
        config=platformdirs.user_config_path("lossguard"),
    )


def _private_tmp() -> Path:
    return Path(tempfile.gettempdir()) / f"lossguard-{os.getuid()}"


def _short_enough(path: Path) -> Path:
    """The same directory, or a short one derived from it where a socket path would be too long."""
    if len(os.fsencode(path / _LONGEST_SOCKET)) < IPC_PATH_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    # Directly in /tmp, whose sticky bit protects it: a parent of our own might be somebody else's.
    return Path("/tmp") / f"lossguard-{os.getuid()}-{digest}"


def require_private(path: Path) -> None:
    """Ours alone, and no link; else made so, or ConfigError."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode) or info.st_uid != os.getuid():
        raise ConfigError(
            f"directory {path} is a link or belongs to uid {info.st_uid}, not to you "
            f"({os.getuid()}); remove it, or set LOSSGUARD_HOME to a directory of your own"
        )
    if info.st_mode & 0o077:
        path.chmod(0o700)
