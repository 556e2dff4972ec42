"""``lossguard run``: the script in this very process, watched."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from lossguard.errors import ConfigError
from lossguard.home import find_home
from lossguard.probes.launch import agent_is_running, start_agent


def run_watched(
    script: str | None, module: str | None, arguments: list[str], policy: str, name: str | None
) -> int:
    """Run a script or module to its end; the exit code a plain run would have.

    Raises ConfigError when there is no such script.
    """
    if script is not None and module is None and not Path(script).is_file():
        raise ConfigError(f"there is no file {script!r}")
    _narrate()
    try:
        home = find_home().create()
        if not agent_is_running(home):
            start_agent(home)  # by the time torch is imported, it is there
    except Exception as error:
        logging.getLogger("lossguard").error("no agent can be started (%s)", error)
    from lossguard.probes.runner import run_module, run_script, watch_by_itself

    watch_by_itself(policy, name)
    if module is not None:
        run_module(module, arguments)
    elif script is not None:
        run_script(script, arguments)
    return 0


def _narrate() -> None:
    """What Lossguard has to say goes to stderr, one line each; the script's logging is its own."""
    log = logging.getLogger("lossguard")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("lossguard: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
