"""``lossguard policy check FILE``: whether a policy is sound, and what it would do."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check a policy before a run is trusted to it."""


@app.command()
def check(
    policy: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A TOML file, or a name.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")] = False,
) -> None:
    """Say whether it is sound, with file, line and key of all that is not; and what it would do."""
    from lossguard.agent.policy_file import find_policy
    from lossguard.agent.policy_listing import policy_object
    from lossguard.agent.policy_sentences import in_sentences

    found = find_policy(policy)
    if as_json:
        sys.stdout.write(json.dumps(policy_object(found)) + "\n")
    else:
        sys.stdout.write("\n".join(in_sentences(found)) + "\n")
