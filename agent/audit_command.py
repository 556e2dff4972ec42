"""``lossguard audit``: who commanded what, and what came of it. Needs no agent."""

from __future__ import annotations

from typing import Annotated

import typer


def audit(
    run: Annotated[
        str, typer.Argument(help="Only what was said about this run: its id, or the start of it.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")] = False,
) -> None:
    """List every command that was given, accepted or refused, and by whom; oldest first."""
    import time

    import msgspec

    from lossguard.agent.audit import read_audit
    from lossguard.agent.listing import table
    from lossguard.home import find_home

    home = find_home()
    home.require_here("its audit log", "`lossguard audit`")
    lines = [
        one for one in read_audit(home.audit_path) if one.run.startswith(run) or one.left_out
    ]  # a count may be of any run
    if as_json:
        for one in lines:
            typer.echo(msgspec.json.encode(one).decode())
        return
    rows = [
        [
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.time)),
            one.who,
            _plain(" ".join([one.verb, *(f"{name}={value}" for name, value in one.args.items())])),
            _plain(one.run),
            one.result,
            _plain(one.why),
        ]
        for one in lines
    ]
    head = ("time", "who", "command", "run", "result", "why")
    typer.echo(table(head, rows) if rows else "nobody has commanded anything so far")


def _plain(text: str) -> str:
    """What was refused may hold anything; a terminal gets none of it that it would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
