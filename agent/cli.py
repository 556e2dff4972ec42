"""The command line. Every command imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from lossguard.agent.attach_command import attach, detach
from lossguard.agent.audit_command import audit
from lossguard.agent.backtest_command import backtest
from lossguard.agent.doctor_command import doctor
from lossguard.agent.keys_command import app as keys_app
from lossguard.agent.notify_command import app as notify_app
from lossguard.agent.policy_command import app as policy_app
from lossguard.agent.report_command import export, report
from lossguard.errors import ExitCode, LossguardError, UsageError

if TYPE_CHECKING:
    from lossguard.agent.running import WatchedRun

app = typer.Typer(
    name="lossguard",
    help="Watches a PyTorch training run, stops bad updates in the same step, and rolls the run "
    "back when it diverges.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PolicyName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--policy", metavar="NAME|FILE", help="One of `lossguard policies`, or a TOML file."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
RunName = Annotated[
    str, typer.Argument(help="A run: its id, the start of it, or a name. Without: the newest.")
]


def main() -> None:
    """The ``lossguard`` command."""
    asked: list[WatchedRun] = []
    try:
        app(args=_fenced(sys.argv[1:]), obj=asked)
    except LossguardError as error:
        typer.echo(f"lossguard: {error}", err=True)
        sys.exit(int(error.exit_code))
    except SystemExit as end:
        if end.code or not asked:
            raise
    # Outside of the command-line library, which has ideas of its own about exits and Ctrl-C.
    from lossguard.agent.running import start

    start(asked[0])


def _fenced(arguments: list[str]) -> list[str]:
    """``run``'s own options end at the script or at ``-m MODULE``: what follows is not ours.

    >>> _fenced(["run", "--guard", "train.py", "--name", "theirs"])
    ['run', '--guard', '--', 'train.py', '--name', 'theirs']
    """
    if arguments[:1] != ["run"]:
        return arguments
    i, is_module = 1, False
    while i < len(arguments) and arguments[i].startswith("-") and arguments[i] != "--":
        takes_value = arguments[i] in ("--name", "--policy", "-m")
        is_module = arguments[i].startswith("-m")
        i += 2 if takes_value else 1
        if is_module:
            break
    if i >= len(arguments) or (arguments[i] == "--" and not is_module):
        return arguments
    return [*arguments[:i], "--", *arguments[i:]]


def _version(wanted: bool) -> None:
    if wanted:
        import lossguard

        typer.echo(f"lossguard {lossguard.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    context: typer.Context,
    script: Annotated[Optional[str], typer.Argument(help="The training script.")] = None,  # noqa: UP045
    arguments: Annotated[
        Optional[list[str]], typer.Argument(metavar="[ARGS]...", help="Its arguments.")  # noqa: UP045
    ] = None,
    guard: Annotated[
        bool,
        typer.Option("--guard", help="Skip bad updates and roll back, whatever the policy says."),
    ] = False,
    policy: PolicyName = None,
    name: Annotated[Optional[str], typer.Option(help="What to call the run.")] = None,  # noqa: UP045
    module: Annotated[
        Optional[str], typer.Option("-m", help="A module to run, as `python -m`.")  # noqa: UP045
    ] = None,
) -> None:
    """Run a training SCRIPT with its ARGS, watched, without a change to it."""
    from lossguard.agent.running import WatchedRun, for_children
    from lossguard.policy_choice import choose_policy

    if module is None and script is None:
        raise UsageError("which script? Say: lossguard run [--guard] SCRIPT [ARGS]")
    if module is None and script is not None and not os.path.exists(script):
        raise UsageError(f"there is no file {script!r}")
    rest = list(arguments or ())
    if module is not None and script is not None:
        rest.insert(0, script)
    asked = WatchedRun(
        script=module or script or "",
        is_module=module is not None,
        arguments=rest,
        policy=choose_policy(policy, acts=guard),
        name=name,
        environment=for_children(policy, acts=guard, name=name),
    )
    context.obj.append(asked)


@app.command()
def agent(
    background: Annotated[
        bool, typer.Option("--background", help="End by itself when there is nothing to watch.")
    ] = False,
    idle_s: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--idle", min=0.1, help="After how long with nothing to watch [s]."),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the running agent instead.")] = False,
    listen: Annotated[
        str,
        typer.Option(
            metavar="tcp://HOST:PORT", help="Serve other hosts too: see `lossguard keys`."
        ),
    ] = "",
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="Also listen at 0.0.0.0 and such, for known keys.")
    ] = False,
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve metrics for Prometheus there.")
    ] = "",
    state: Annotated[
        str, typer.Option(metavar="DIR", help="Keep what was seen there (LOSSGUARD_STATE).")
    ] = "",
    policy: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--policy", metavar="NAME|FILE", help="For runs that bring none of their own."
        ),
    ] = None,
) -> None:
    """Run the daemon. `lossguard run` starts one by itself when none is running."""
    from lossguard.agent import agent_command
    from lossguard.home import find_home

    if stop:
        from lossguard.agent.operating import stop_agent

        typer.echo(f"agent {stop_agent(find_home())} has ended; training goes on")
        return
    agent_command.serve(
        background=background,
        idle_s=idle_s,
        listen=listen,
        anywhere=anywhere,
        metrics=metrics,
        state=state,
        policy=policy,
    )


@app.command()
def top(
    run: RunName = "",
    web: Annotated[
        bool, typer.Option("--web", help="In a browser: serve it on this host, print the link.")
    ] = False,
    port: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1024, max=65535, help="For --web. Without: a free one."),
    ] = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="For --web, which is read-only without: may act.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch live, in the terminal or in a browser."""
    from lossguard.agent.launching import ensure_agent
    from lossguard.home import find_home

    if not web and (port is not None or operator or as_json):
        raise UsageError("--port, --operator and --json go with `lossguard top --web`")
    ensure_agent(find_home())
    if web:
        from functools import partial

        from lossguard.tui.web.serving import serve

        again = partial(ensure_agent, find_home())
        serve(run, again, port=port or 0, operator=operator, as_json=as_json)
    else:
        from lossguard.tui.app import main as dashboard

        dashboard(run)


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List what runs and what ran, newest first."""
    from lossguard.agent import feed, listing

    answer = _expect(_ask(feed.ListRuns()), feed.RunList)
    listing.print_runs(answer.runs, as_json)
    listing.print_troubles(answer.troubles)


@app.command()
def incidents(run: RunName = "", as_json: AsJson = False) -> None:
    """List what went wrong in a run, and what was done about it."""
    from lossguard.agent import feed, listing

    answer = _expect(_ask(feed.ListIncidents(run=run)), feed.IncidentList)
    listing.print_incidents(answer.run, answer.incidents, as_json)


@app.command()
def show(
    incident: Annotated[
        str, typer.Argument(help="An incident's id, or the start of it. Without: the newest.")
    ] = "",
    export: Annotated[
        str, typer.Option(metavar="FILE.tar.gz", help="Put all of it into one archive.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show one incident: what happened, what was done, what helps, the evidence."""
    from lossguard.agent.showing_incident import show_incident
    from lossguard.home import find_home

    home = find_home()
    home.require_here("what it keeps of incidents", "`lossguard show`")
    show_incident(home, incident, as_json, export)


@app.command()
def send(
    run: Annotated[str, typer.Argument(help="A run: its id, the start of it, or a name.")],
    action: Annotated[
        str, typer.Argument(help="skip, rollback, lower_lr, checkpoint, stop, ack, mute ...")
    ],
    arg: Annotated[
        Optional[list[str]], typer.Option(help="key=value, say factor=0.1; may be repeated.")  # noqa: UP045
    ] = None,
    wait_s: Annotated[float, typer.Option("--wait", help="Wait this long for it [s].")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Operate a run by hand: skip, roll back, lower the rate, checkpoint, stop, ack, mute."""
    from lossguard.agent.operating import send_command

    result = send_command(run, action, arg or [], wait_s)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(result).decode())
    else:
        typer.echo(f"{action} {result.status} at step {result.step}: {result.result}")
    if result.status != "done":
        raise typer.Exit(int(ExitCode.ERROR))


app.command()(audit)
app.command()(doctor)
app.add_typer(keys_app, name="keys")
app.command()(attach)
app.command()(detach)
app.command()(backtest)
app.command()(report)
app.command()(export)
app.add_typer(policy_app, name="policy")
app.add_typer(notify_app, name="notify")


@app.command()
def explain(
    symptom: Annotated[str, typer.Argument(help="A symptom. Without: list them all.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say what a symptom means: causes, what helps, what Lossguard does about it."""
    from lossguard.agent.explaining import explain_symptom, list_symptoms

    explain_symptom(symptom, as_json) if symptom else list_symptoms(as_json)


@app.command()
def policies(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="Print it whole. Without: list them all.")
    ] = "",
    reference: Annotated[
        str,
        typer.Option(metavar="LOG", help="Print the loss of this run as TOML, to compare with."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the policies, or print one with every setting of every detector, as TOML."""
    from lossguard.agent.policy_listing import list_policies, print_policy, print_reference

    if reference:
        print_reference(reference)
    elif name:
        print_policy(name, as_json)
    else:
        list_policies(as_json)


@app.command()
def demo(
    as_json: AsJson = False,
    steps: Annotated[Optional[int], typer.Option(help="Steps of each training.")] = None,  # noqa: UP045
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Open the dashboard on the guarded run.")
    ] = False,
) -> None:
    """A real small training with real trouble, guarded and unguarded side by side."""
    from lossguard.agent.demo import run_demo

    sys.exit(run_demo(as_json=as_json, steps=steps, dashboard=dashboard))


def _ask(message: Any) -> Any:
    from lossguard.agent.client import Client
    from lossguard.agent.launching import ensure_agent
    from lossguard.home import find_home

    home = find_home()
    ensure_agent(home)
    with Client(home) as client:
        return client.request(message)


def _expect(answer: Any, kind: Any) -> Any:
    from lossguard.agent import feed

    if isinstance(answer, feed.Trouble):
        raise LossguardError(answer.why)
    if not isinstance(answer, kind):
        raise LossguardError(f"the agent answered {type(answer).__name__}: is it another version?")
    return answer
