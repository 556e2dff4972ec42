"""Finding this user's agent, and starting one where none runs."""

from __future__ import annotations

import fcntl
import os
import subprocess

from lossguard.home import Home
from lossguard.own_python import own_python


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
