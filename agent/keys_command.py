"""``lossguard keys``: who of other hosts may speak to this user's agent, and as what."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

app = typer.Typer(
    help="The keys of other hosts: make, list, rotate, revoke. All at once, without a restart.",
    no_args_is_help=True,
)

_FILE = typer.Option(
    "-o", "--output", metavar="FILE", help="All that the client needs, its secret included; 0600."
)
_NAME = typer.Argument(metavar="NAME", help="What to call it: the host, say, or who uses it.")


@app.command()
def init() -> None:
    """Make the agent's own key."""
    ring = _keyring()
    key = ring.init()
    typer.echo(f"the agent's key is in {ring.folder}; its public half is {key.public}")


@app.command()
def add(
    name: Annotated[str, _NAME],
    role: Annotated[
        str,
        typer.Option(help="probe: report runs and obey; viewer: look on; operator: command too."),
    ],
    output: Annotated[str, _FILE],
) -> None:
    """Make a key for a client, and let it in from now on."""
    import msgspec

    from lossguard.errors import UsageError
    from lossguard.key_files import Role

    try:
        known = msgspec.convert(role, Role)
    except msgspec.ValidationError:
        raise UsageError(f"--role is probe, viewer or operator, not {role!r}") from None
    key = _keyring().add(name, known, _path(output))
    _say_where(key, output)


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")] = False,
) -> None:
    """Show the public halves of all keys that are known."""
    import time

    import msgspec

    from lossguard.agent.listing import table

    ring = _keyring()
    agent, clients = ring.agent(), ring.clients()
    if as_json:
        typer.echo(msgspec.json.encode({"agent": agent.public, "clients": clients}))
        return
    typer.echo(f"the agent's public key: {agent.public}")
    rows = [
        [one.name, one.role, time.strftime("%Y-%m-%d", time.localtime(one.added)), one.public]
        for one in clients
    ]
    typer.echo(table(("name", "role", "added", "public key"), rows) if rows else "no clients yet")


@app.command()
def revoke(name: Annotated[str, _NAME]) -> None:
    """Let a client in no more; what it says over an open connection is refused as well."""
    key = _keyring().revoke(name)
    typer.echo(f"{key.name} ({key.role}) is refused from now on")


@app.command()
def rotate(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[NAME]", help="A client. Without: the agent's own key."),
    ] = None,
    output: Annotated[Optional[str], _FILE] = None,  # noqa: UP045
) -> None:
    """Make a new key in place of one; the old one is refused from now on."""
    from lossguard.errors import UsageError

    ring = _keyring()
    if name is not None:
        if output is None:
            raise UsageError("where to? Say: lossguard keys rotate NAME -o FILE")
        _say_where(ring.rotate(name, _path(output)), output)
        return
    if output is not None:
        raise UsageError("the agent's key stays where it is: -o goes with the NAME of a client")
    key = ring.rotate_agent()
    typer.echo(f"the agent's new public key: {key.public}")
    for one in ring.clients():
        typer.echo(f"{one.name} needs a new file: lossguard keys rotate {one.name} -o FILE")


def _say_where(key: Any, output: str) -> None:
    typer.echo(
        f"{output}: the key of {key.name} ({key.role}). Take it to its host by a safe way (scp), "
        f"keep it at mode 0600, and set LOSSGUARD_AGENT=tcp://HOST:PORT LOSSGUARD_KEY_FILE={output}"
    )


def _path(output: str) -> Any:
    from pathlib import Path

    return Path(output).expanduser().absolute()


def _keyring() -> Any:
    from lossguard.agent.keyring import Keyring
    from lossguard.home import find_home

    return Keyring(find_home())
