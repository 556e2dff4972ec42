"""``lossguard run``: the script in this very process, watched."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

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
    environment: dict[str, str]
    """For processes that the script starts, which may be the ones that train: each attaches only
    if it does (``probes.startup``)."""


def start(wanted: WatchedRun) -> None:
    """Run a script or module to its end. Its exceptions and exits are those of a plain run."""
    from lossguard.probes import runner

    runner.narrate()
    if wanted.policy.text:
        logging.getLogger("lossguard").info(
            "policy %s (%s)", wanted.policy.name, wanted.policy.origin
        )
    try:
        home = find_home().create()
        if not home.remote and not agent_is_running(home):
            from lossguard.agent.settings import load_settings

            load_settings(home)  # with wrong ones it would end at once, and say why in its own log
            start_agent(home)  # by the time torch is imported, it is there
    except Exception as error:
        logging.getLogger("lossguard").error("no agent can be started (%s)", error)
    runner.watch_by_itself(wanted.policy, wanted.name)
    os.environ.update(wanted.environment)
    runner.run(wanted.script, wanted.arguments, is_module=wanted.is_module)


def for_children(policy: str | None, *, acts: bool, name: str | None) -> dict[str, str]:
    """The environment that says the same as ``lossguard run --policy ... --guard --name ...``."""
    said = {"LOSSGUARD": "guard" if acts else "1"}
    if policy:
        said["LOSSGUARD_POLICY"] = os.path.abspath(policy) if os.path.isfile(policy) else policy
    if name:
        said["LOSSGUARD_NAME"] = name
    return said
