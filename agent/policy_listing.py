"""``lossguard policies``: which there are, which is in force here, and what one says in full."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from lossguard.agent.detector_settings import settings_of
from lossguard.agent.listing import table
from lossguard.agent.policy_file import find_policy
from lossguard.agent.policy_reference import as_toml
from lossguard.agent.policy_settings import LEAST, Policy, effective_settings
from lossguard.agent.policy_text import as_full_toml
from lossguard.detectors import CATALOGUE, Symptom
from lossguard.policy_choice import SHIPPED, shipped_policies, wanted_policy


def list_policies(as_json: bool) -> None:
    """One line each; the one in force in this directory is marked. Raises ConfigError."""
    wanted = wanted_policy()
    if as_json:
        for name in shipped_policies():
            line = {"name": name, "base": find_policy(name).base, "about": about(name)}
            _say(json.dumps({**line, "in_force": name == wanted.policy}))
        if wanted.path is not None:
            own = find_policy(wanted.policy)
            line = {"name": own.name, "base": own.base, "about": wanted.policy}
            _say(json.dumps({**line, "in_force": True}))
        return
    rows = [
        ("*" if name == wanted.policy else "", name, find_policy(name).base, about(name))
        for name in shipped_policies()
    ]
    if wanted.path is not None:
        own = find_policy(wanted.policy)
        rows.append(("*", own.name, own.base, wanted.policy))
    _say(table(("", "policy", "base", "what it is for"), rows))
    _say(f"\n* in force here ({wanted.origin}). More: lossguard policies NAME")


def print_policy(name: str, as_json: bool) -> None:
    """The whole policy with every default. Raises ConfigError."""
    policy = find_policy(name)
    if not as_json:
        _say(as_full_toml(policy).rstrip("\n"))
        return
    _say(json.dumps(policy_object(policy)))


def print_reference(log: str) -> None:
    """The curve of a good run, to be pasted into a policy file. Raises InputError."""
    _say(as_toml(log))


def policy_object(policy: Policy) -> dict[str, Any]:
    """A policy as ``--json`` prints it, with every setting of every detector."""
    detectors = {
        symptom: {
            "enabled": Symptom(symptom) not in policy.disabled,
            **{setting.name: setting.default for setting in settings_of(kind)},
            **effective_settings(policy, symptom),
        }
        for symptom, kind in CATALOGUE.items()
    }
    return {
        "name": policy.name,
        "base": policy.base,
        "rollback_for": sorted(map(str, policy.rollback_for)),
        **{key: getattr(policy, key) for key in LEAST},
        "validation": asdict(policy.validation),
        "hang": asdict(policy.hang),
        "detectors": detectors,
    }


def about(name: str) -> str:
    """The first line of a shipped policy's file, which is a comment."""
    first = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
