"""``lossguard attach PID`` and ``lossguard detach PID``: a training that is under way already."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from lossguard.errors import AlreadyAttached, CannotAttach

if TYPE_CHECKING:
    from lossguard.agent.target import Target

_AS_JSON = typer.Option("--json", help="JSON on stdout, for scripts.")
Pid = Annotated[int, typer.Argument(metavar="PID", min=1, help="The process that trains.")]


def attach(
    pid: Pid,
    guard: Annotated[
        bool,
        typer.Option("--guard", help="Skip bad updates and roll back, whatever the policy says."),
    ] = False,
    policy: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--policy", metavar="NAME|FILE", help="One of `lossguard policies`, or a TOML file."
        ),
    ] = None,
    name: Annotated[Optional[str], typer.Option(help="What to call the run.")] = None,  # noqa: UP045
    wait_s: Annotated[
        float, typer.Option("--wait", min=0.0, help="Wait this long for its next steps [s].")
    ] = 60.0,
    as_json: Annotated[bool, _AS_JSON] = False,
) -> None:
    """Watch a process that trains already. Nothing has to be prepared in it."""
    from lossguard.agent.injecting import Injection
    from lossguard.agent.launching import ensure_agent
    from lossguard.agent.target import Target
    from lossguard.home import find_home
    from lossguard.policy_choice import choose_policy

    chosen = choose_policy(policy, acts=guard)
    target = Target(pid)
    home = find_home()
    ensure_agent(home)
    request = {
        "action": "attach",
        "name": name,
        "policy": dataclasses.asdict(chosen),
        "home": {part: str(path) for part, path in dataclasses.asdict(home).items() if path},
        "wait_s": wait_s,
    }
    with Injection(target, request) as injection:
        injection.deliver()
        answer = injection.answer(lambda known: known["state"] != "armed", wait_s)
    _expect(answer, target, "attached", "armed")
    if "run" in answer:
        text = f"process {pid} is watched as run {answer['run']}"
    else:
        text = f"process {pid} has made no step within {wait_s:g} s; its next one begins the watch"
    _say(answer, as_json, text)


def detach(pid: Pid, as_json: Annotated[bool, _AS_JSON] = False) -> None:
    """Stop watching a process, and leave it as it was. It trains on."""
    from lossguard.agent.injecting import Injection
    from lossguard.agent.target import Target

    target = Target(pid)
    with Injection(target, {"action": "detach"}) as injection:
        injection.deliver()
        answer = injection.answer(lambda known: True, 0.0)
    _expect(answer, target, "detached")
    _say(answer, as_json, f"process {pid} is as it was, and trains on")


def _say(answer: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(answer) if as_json else text)


def _expect(answer: dict[str, Any], target: Target, *states: str) -> None:
    """Raises what else came back."""
    if answer["state"] not in states:
        _refuse(answer, target.pid)


def _refuse(answer: dict[str, Any], pid: int) -> NoReturn:
    state = answer["state"]
    if state == "already_attached":
        raise AlreadyAttached(f"process {pid} is watched already, as {', '.join(answer['runs'])}")
    if state == "already_armed":
        raise AlreadyAttached(f"process {pid} will be watched already, once it makes a step")
    python = answer.get("python", "its Python")
    ways = {
        "no_optimizer": "has no optimizer: it trains nothing, or not with torch.optim",
        "no_gil": "runs Python without the GIL: there is no moment to change its hooks safely",
        "not_attached": "is not watched",
        "busy": "was always in the middle of a step; try again",
        "not_installed": f"cannot import lossguard ({answer.get('why', '')}); install it there: "
        f"{python} -m pip install lossguard",
    }
    raise CannotAttach(f"process {pid} {ways.get(state) or answer.get('why') or state}")
