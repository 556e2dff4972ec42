"""Finding this user's agent, and starting one where none runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from lossguard.home import Home
from lossguard.own_python import own_python

_LONG_LOG_BYTES = 4 << 20


def agent_is_running(home: Home) -> bool:
    """Whether some process holds the agent's lock. Touches no socket."""
    try:
        descriptor = os.open(home.lock_path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _set_aside(log: Path) -> None:
    """A log that has grown long makes room for a new one; the one before is kept."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > _LONG_LOG_BYTES:
            os.replace(log, log.with_name(f"{log.name}.1"))


def start_agent(home: Home) -> None:
    """Start an agent in the background; it outlives this process and is not its child.

    Of several started at once, one gets the lock and the others exit. Its output goes to
    ``home.agent_log_path``. Takes a few milliseconds.
    """
    home.create()
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("LOSSGUARD", "LOSSGUARD_AGENT", "PYTHONSTARTUP")
        and not key.startswith("TORCHELASTIC_")
    }
    agent = own_python("lossguard", "agent", "--background")
    _set_aside(home.agent_log_path)
    with home.agent_log_path.open("ab") as log:
        # The shell leaves the agent behind and ends: nobody has to reap it later.
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "lossguard", *agent],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
            check=False,
        )
