"""``python -m lossguard.agent.policy_check POLICY``: the policy, checked, as it travels.

In a process of its own, so that the training process need not load the detectors. JSON on
stdout (``name``, ``acts``, ``text``), or what is wrong on stderr and exit code 78.
"""

from __future__ import annotations

import json
import sys

from lossguard.agent.policy_file import find_policy
from lossguard.agent.policy_text import as_toml
from lossguard.errors import ConfigError, ExitCode


def main(policy: str) -> int:
    """The exit code."""
    try:
        found = find_policy(policy)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    known = {"name": found.name, "acts": found.acts, "text": as_toml(found)}
    sys.stdout.write(json.dumps(known) + "\n")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
