"""``lossguard notify test``: whether a message to people arrives."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from lossguard.errors import ExitCode

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Tell people of trouble: through Slack, a webhook, e-mail and others."""


@app.command("test")
def send_test(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")] = False,
) -> None:
    """Send a message to each target the way that alerts go, and say what came of it.

    Exits with 0 where all arrived, 78 where a person has to put something right, 69 where somebody
    cannot be reached now. 78 as well where the agent that runs would not send them.
    """
    from lossguard.agent.alerts.trial import send_trials
    from lossguard.agent.doctor_checks import RESTART, untold_by_agent
    from lossguard.home import find_home

    home = find_home()
    trials = send_trials(home)
    for trial in trials:
        if as_json:
            sys.stdout.write(json.dumps(asdict(trial)) + "\n")
        else:
            done = f"{trial.target}: {trial.sent} of {trial.of} messages sent"
            sys.stdout.write(f"{done}: {trial.why}\n" if trial.why else f"{done}\n")
    untold = untold_by_agent(home)
    if untold:
        sys.stderr.write(f"lossguard: {untold}; type: {RESTART}\n")
    worst = max([trial.exit_code for trial in trials] + [ExitCode.CONFIG] * bool(untold))
    if worst != ExitCode.OK:
        raise typer.Exit(int(worst))
