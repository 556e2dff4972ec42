"""``lossguard doctor``: what is wrong with this installation, and what to type."""

from __future__ import annotations

from typing import Annotated

import typer

_SIGNS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")] = False,
) -> None:
    """Check folders, keys, database, agent, libraries, disk, clock. Changes nothing."""
    import msgspec

    from lossguard.agent.doctor_checks import findings
    from lossguard.errors import ExitCode
    from lossguard.home import find_home

    failed = False
    for finding in findings(find_home()):
        failed = failed or finding.status == "fail"
        if as_json:
            typer.echo(msgspec.json.encode(finding).decode())
        else:
            typer.echo(f"{_SIGNS[finding.status]} {finding.check}: {finding.said}")
            if finding.do:
                typer.echo(f"     -> {finding.do}")
    if failed:
        raise typer.Exit(int(ExitCode.ERROR))
