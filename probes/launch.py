"""Finding this user's agent, and starting one where none runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

from lossguard.home import Home


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


def start_agent(home: Home) -> subprocess.Popen[bytes]:
    """Start an agent in the background, in a session of its own; it outlives this process.

    Of several started at once, one gets the lock and the others exit. Its output goes to
    ``home.agent_log_path``.
    """
    home.create()
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("LOSSGUARD", "PYTHONSTARTUP") and not key.startswith("TORCHELASTIC_")
    }
    with home.agent_log_path.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lossguard", "agent", "--background"]
            if sys.version_info >= (3, 11)
            else [sys.executable, "-m", "lossguard", "agent", "--background"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
