"""Whether an agent could start with the settings it would find, asked in a process of its own.

The training process must load neither numpy nor ZeroMQ before its script had its say, and the
settings' tables stand in modules that do.
"""

from __future__ import annotations

import os
import subprocess
import sys

from lossguard.errors import ConfigError, ExitCode
from lossguard.home import Home, find_home
from lossguard.own_python import own_python

_PATIENCE_S = 60.0


def require_readable_settings(home: Home) -> None:
    """Costs a process where there are settings, else nothing. Raises ConfigError."""
    if "LOSSGUARD_AGENT_SETTINGS" not in os.environ and not home.settings_path.exists():
        return
    done = subprocess.run(
        own_python("lossguard.agent.settings_check"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode == ExitCode.CONFIG:
        raise ConfigError(done.stderr.strip())


def main() -> int:
    """The exit code: 78 with what is wrong on stderr."""
    from lossguard.agent.settings import load_settings

    try:
        load_settings(find_home())
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
