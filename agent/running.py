"""``lossguard run``: the script in this very process, watched."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lossguard.home import find_home
from lossguard.policy_choice import ChosenPolicy
from lossguard.probes.launch import agent_is_running, start_agent


@dataclass(frozen=True, kw_only=True)
class WatchedRun:
    """What ``lossguard run`` was asked to do."""

    script: str
    """A file, or with ``is_module`` the name of a module."""
    is_module: bool
    arguments: list[str]
    policy: ChosenPolicy
    name: str | None


def start(wanted: WatchedRun) -> None:
    """Run a script or module to its end. Its exceptions and exits are those of a plain run."""
    _narrate()
    _hide_our_frames()
    if wanted.policy.text:
        logging.getLogger("lossguard").info(
            "policy %s (%s)", wanted.policy.name, wanted.policy.origin
        )
    try:
        home = find_home().create()
        if not agent_is_running(home):
            start_agent(home)  # by the time torch is imported, it is there
    except Exception as error:
        logging.getLogger("lossguard").error("no agent can be started (%s)", error)
    from lossguard.probes.runner import run_module, run_script, watch_by_itself

    watch_by_itself(wanted.policy, wanted.name)
    (run_module if wanted.is_module else run_script)(wanted.script, wanted.arguments)


def _hide_our_frames() -> None:
    """A traceback of the script begins at the script, as in a plain run."""
    ours = str(Path(__file__).resolve().parents[1])
    show = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        rest, own = trace, True
        while rest is not None and own:
            file = rest.tb_frame.f_code.co_filename
            own = _is_launcher(file, ours)
            rest = rest.tb_next if own else rest
        rest = rest or trace
        show(kind, error.with_traceback(rest), rest)

    sys.excepthook = excepthook


def _is_launcher(file: str, ours: str) -> bool:
    if file.startswith("<frozen ") or Path(file).name in ("runpy.py", "lossguard"):
        return True
    return str(Path(file).resolve()).startswith(ours)


def _narrate() -> None:
    """What Lossguard has to say goes to stderr, one line each; the script's logging is its own."""
    log = logging.getLogger("lossguard")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("lossguard: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
