"""The command line: exit codes, output for scripts, what is whose argument."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import lossguard
from lossguard.agent import feed, launching, listing
from lossguard.agent.cli import _fenced
from lossguard.agent.launching import ensure_agent
from lossguard.agent.operating import _key_value, send_command
from lossguard.errors import AgentUnreachable, UsageError
from lossguard.home import Home


def lossguard_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m lossguard ARGUMENTS``."""
    return subprocess.run(
        [sys.executable, "-m", "lossguard", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_help_and_version_succeed(home: Home) -> None:
    """Both on stdout."""
    helped = lossguard_command("--help")
    assert helped.returncode == 0
    for command in ("run", "agent", "top", "runs", "incidents", "send", "backtest", "demo"):
        assert command in helped.stdout
    version = lossguard_command("--version")
    assert (version.returncode, version.stdout) == (0, f"lossguard {lossguard.__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["runs", "--frobnicate"], ["run"], ["run", "/nowhere.py"]]
)
def test_wrong_usage_exits_with_2(home: Home, arguments: list[str]) -> None:
    """The complaint is on stderr, and it is no traceback."""
    wrong = lossguard_command(*arguments)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_file_that_cannot_be_read_exits_with_65(home: Home) -> None:
    """As sysexits has it."""
    assert lossguard_command("backtest", "/nowhere.csv").returncode == 65


def test_stopping_an_agent_that_is_not_there_exits_with_69(home: Home) -> None:
    """Unreachable; whoever wants it stopped is told so at once, and not how to start one."""
    home.create()
    stopped = lossguard_command("agent", "--stop")
    assert stopped.returncode == 69
    assert stopped.stderr == "lossguard: no agent is running\n"


def test_an_agent_that_cannot_start_is_reported_with_its_last_words(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever needed it learns why it is not there."""
    home.create()
    home.agent_log_path.write_text("begin\nlossguard: the disk is full\n")
    monkeypatch.setattr(launching, "start_agent", lambda home: None)
    with pytest.raises(AgentUnreachable, match="it said: lossguard: the disk is full"):
        ensure_agent(home, timeout_s=0.2)


@pytest.mark.parametrize(
    ("given", "fenced"),
    [
        (["runs", "--json"], ["runs", "--json"]),
        (["run"], ["run"]),
        (["run", "--help"], ["run", "--help"]),
        (["run", "t.py", "--name", "x"], ["run", "--", "t.py", "--name", "x"]),
        (["run", "--guard", "t.py", "--help"], ["run", "--guard", "--", "t.py", "--help"]),
        (["run", "--policy", "x", "t.py"], ["run", "--policy", "x", "--", "t.py"]),
        (["run", "--name", "n", "t.py"], ["run", "--name", "n", "--", "t.py"]),
        (["run", "--name=n", "t.py", "-m"], ["run", "--name=n", "--", "t.py", "-m"]),
        (["run", "-m", "pkg", "--guard"], ["run", "-m", "pkg", "--", "--guard"]),
        (["run", "-mpkg", "--lr", "3"], ["run", "-mpkg", "--", "--lr", "3"]),
        (["run", "--", "t.py", "--guard"], ["run", "--", "t.py", "--guard"]),
        (["run", "--name"], ["run", "--name"]),
    ],
)
def test_what_follows_the_script_is_the_scripts(given: list[str], fenced: list[str]) -> None:
    """Our options end where the script or module is named."""
    assert _fenced(given) == fenced


@pytest.mark.parametrize(
    ("text", "pair"),
    [("n=3", ("n", 3)), ("f=1e-3", ("f", 1e-3)), ("s=a=b", ("s", "a=b")), ("e=", ("e", ""))],
)
def test_arguments_of_actions_are_numbers_where_they_look_like_it(
    text: str, pair: tuple[str, float | int | str]
) -> None:
    """``key=value``."""
    assert _key_value(text) == pair


def test_an_unknown_action_or_argument_is_a_usage_error(home: Home) -> None:
    """The message lists what there is; nothing is started for it."""
    with pytest.raises(UsageError, match="no action 'explode'; there are skip, rollback"):
        send_command("run", "explode", [], 0.1)
    with pytest.raises(UsageError, match="wants key=value, got 'factor'"):
        _key_value("factor")


def summary() -> feed.RunSummary:
    """A run with a loss that is no number."""
    return feed.RunSummary(
        run="run-a", name="tiny", state="running", step=5, applied=4, world_size=1, started=1.5,
        metrics=["loss"], last={"loss": float("nan")}, incidents=1, actions=2, dropped=3,
    )  # fmt: skip


def test_runs_as_json_have_exactly_the_documented_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One strict object a line."""
    listing.print_runs([summary(), summary()], as_json=True)
    first, _ = capsys.readouterr().out.splitlines()
    assert list(json.loads(first)) == [
        "run", "name", "state", "step", "applied", "world_size", "started", "metrics", "last",
        "incidents", "actions", "dropped",
    ]  # fmt: skip
    assert json.loads(first)["last"] == {"loss": None}


def test_incidents_as_json_have_the_documented_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a finding, the id, the state and the actions."""
    line = feed.IncidentLine(
        id="run-a.1", run="run-a", state="open", symptom="loss_spike", severity="critical",
        metric="loss", onset_step=3, detected_step=4, end_step=None, score=float("inf"),
        message="up", actions=[feed.ActionLine(action="skip", step=4, result="done")],
    )  # fmt: skip
    listing.print_incidents("run-a", [line], as_json=True)
    (printed,) = capsys.readouterr().out.splitlines()
    known = json.loads(printed)
    assert {
        "id", "state", "symptom", "severity", "metric", "onset_step", "detected_step", "end_step",
        "score", "message", "actions",
    } <= set(known)  # fmt: skip
    assert known["score"] is None
    assert known["actions"] == [{"action": "skip", "step": 4, "result": "done"}]


def test_people_get_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """And a hint where there is nothing."""
    listing.print_runs([summary()], as_json=False)
    listing.print_runs([], as_json=False)
    listing.print_incidents("run-a", [], as_json=False)
    out = capsys.readouterr().out
    assert "run-a  running" in out
    assert "No runs yet" in out
    assert "No incidents in run-a." in out
