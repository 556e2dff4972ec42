"""What is asked of the agent: refused before it is looked up, and written down once."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from lossguard.agent import feed
from lossguard.agent.audit import KEPT_FILES, AuditLine, AuditLog, read_audit
from lossguard.agent.cli import app
from lossguard.agent.gate import Gate
from lossguard.agent.peers import OWNER, Peer
from lossguard.agent.store import Store
from lossguard.agent.verbs import ARGUMENTS, wrong_with_arguments
from lossguard.home import Home
from lossguard.probes import wire

VIEWER = Peer("key look at 10.0.0.2", "key look", "viewer", is_local=False)
OPERATOR = Peer("key op at 10.0.0.3", "key op", "operator", is_local=False)
PONG = feed.Pong(agent_pid=1, version="0")


@pytest.fixture
def gate(store: Store, tmp_path: Path) -> Gate:
    return Gate(store, AuditLog(tmp_path / "audit.jsonl"))


class Desk:
    """Takes every command, as the registry would; counts how often it was asked."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked = 0

    def take(self, message: feed.SendCommand) -> feed.FeedMessage:
        self.asked += 1
        if self.store.command(message.command) is None:
            command = wire.Command(
                run=message.run, command=message.command, action=message.action, expires_step=9
            )
            self.store.add_command(command, "")
        answer = self.store.command(message.command)
        assert answer is not None
        return feed.CommandResult(command=message.command, status=answer.status)  # type: ignore[arg-type]


def order(
    command: str = "c", action: wire.Action = "skip", **args: float | str
) -> feed.SendCommand:
    return feed.SendCommand(run="run-a", command=command, action=action, args=dict(args))


def test_every_action_of_the_wire_has_its_arguments() -> None:
    """The enumeration is closed: an action that is added there needs a line here."""
    assert set(ARGUMENTS) == set(get_args(wire.Action))


@pytest.mark.parametrize(
    ("action", "args"),
    [
        ("rollback", {"onset": 30, "lr": 0.5, "warmup_steps": 100, "deeper": 1, "random": True}),
        ("lower_lr", {"factor": 0.1}),
        ("stop", {"checkpoint": 1, "reason": "enough, thank you"}),
        ("checkpoint", {"keep": "best", "evaluated": 12}),
        ("ack", {"incident": "run-a.3"}),
        ("mute", {"symptom": "loss_spike", "hours": 2.5}),
        ("skip", {}),
    ],
)
def test_arguments_within_their_bounds_are_taken(action: wire.Action, args: dict[str, int]) -> None:
    assert wrong_with_arguments(action, args) == ""


@pytest.mark.parametrize(
    ("action", "args"),
    [
        ("skip", {"steps": 3}),
        ("rollback", {"onset": -1}),
        ("rollback", {"onset": math.nan}),
        ("rollback", {"onset": "30"}),
        ("rollback", {"path": "/etc/passwd"}),
        ("lower_lr", {"factor": 2.0}),
        ("lower_lr", {"factor": math.inf}),
        ("checkpoint", {"keep": "/tmp/mine"}),
        ("checkpoint", {"folder": "/tmp"}),
        ("stop", {"reason": "a\x1b[2Jb"}),
        ("stop", {"reason": "a\x9b2Jb"}),
        ("stop", {"reason": "x" * 201}),
        ("ack", {"incident": "../../etc"}),
        ("mute", {"symptom": "loss spike; rm -rf"}),
    ],
)
def test_whatever_else_is_refused(action: wire.Action, args: dict[str, int]) -> None:
    assert wrong_with_arguments(action, args).startswith(action)


def test_a_viewer_is_refused_before_anything_is_looked_up(gate: Gate, store: Store) -> None:
    """An operator with the very same words is not."""
    desk = Desk(store)
    for message in (order(), feed.Shutdown()):
        answer = gate.answer(message, VIEWER, lambda: desk.take(order()))
        assert isinstance(answer, feed.Trouble)
    assert desk.asked == 0
    answer = gate.answer(order(), OPERATOR, lambda: desk.take(order()))
    assert isinstance(answer, feed.CommandResult)
    assert isinstance(gate.answer(feed.ListRuns(), VIEWER, lambda: PONG), feed.Pong)


def test_a_command_is_written_down_once_and_again_when_it_has_come_to_its_end(
    gate: Gate, store: Store, tmp_path: Path
) -> None:
    """However often its outcome is asked for; questions are not written down at all."""
    desk = Desk(store)
    for _ in range(3):
        gate.answer(order(), OPERATOR, lambda: desk.take(order()))
        gate.answer(feed.ListRuns(), VIEWER, lambda: PONG)
        gate.tick()
    store.end_command("c", "done", 7, "skips_step 8")
    for _ in range(3):
        gate.answer(order(), OWNER, lambda: desk.take(order()))
        gate.tick()
    lines = list(read_audit(tmp_path / "audit.jsonl"))
    assert [(one.who, one.result) for one in lines] == [
        (OPERATOR.who, "accepted"), (OPERATOR.who, "done"),
    ]  # fmt: skip
    assert {one.command for one in lines} == {"c"}
    assert lines[-1].why == "step 7: skips_step 8"


def test_what_is_refused_is_written_down_with_why(gate: Gate, store: Store, tmp_path: Path) -> None:
    """By role, by argument, and by the desk; what cannot stand in JSON as words."""
    desk = Desk(store)
    gate.answer(order(), VIEWER, lambda: desk.take(order()))
    gate.answer(order(action="rollback", onset=math.nan), OPERATOR, lambda: PONG)
    gate.answer(order(), OPERATOR, lambda: feed.Trouble(why="no such run"))
    lines = list(read_audit(tmp_path / "audit.jsonl"))
    assert [one.result for one in lines] == ["refused"] * 3
    assert "give no commands" in lines[0].why
    assert lines[1].args == {"onset": "nan"}
    assert lines[2].why == "no such run"


def test_one_of_another_host_cannot_ask_without_end(gate: Gate) -> None:
    """It is told to slow down; the owner on this host is not counted, and others have their own."""
    asked = [gate.wrong(feed.ListRuns(), VIEWER) for _ in range(3000)]
    assert asked[0] == ""
    assert "slow down" in asked[-1]
    assert gate.wrong(feed.ListRuns(), OPERATOR) == ""
    assert not any(gate.wrong(feed.ListRuns(), OWNER) for _ in range(3000))


def test_the_audit_log_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    """Full files are set aside, the oldest dropped, all for their owner only."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, most_bytes=2000)
    for number in range(500):
        line = AuditLine(time=0.0, who="the owner", verb="skip", result="accepted",
                         command=str(number))  # fmt: skip
        log.add(line)
    files = list(tmp_path.iterdir())
    assert len(files) <= KEPT_FILES + 1
    assert sum(file.stat().st_size for file in files) < (KEPT_FILES + 1) * 2200
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    numbers = [int(one.command) for one in read_audit(path)]
    assert numbers == list(range(numbers[0], 500))


def test_a_log_that_cannot_be_written_stops_no_command(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; nor is a link in its place followed."""
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    gate = Gate(store, AuditLog(tmp_path / "audit.jsonl"))
    desk = Desk(store)
    for name in ("a", "b"):
        answer = gate.answer(order(name), OPERATOR, partial(desk.take, order(name)))
        assert isinstance(answer, feed.CommandResult)
    assert caplog.text.count("audit log cannot be written") == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_terminal_is_sent_nothing_that_it_would_obey(home: Home) -> None:
    """The command prints what was refused, too, which may hold anything."""
    home.create()
    line = AuditLine(time=0.0, who="key x", verb="stop", result="refused", run="\x1b[2Jgone\r")
    AuditLog(home.audit_path).add(line)
    with home.audit_path.open("ab") as file:
        file.write(b'{"half a li')
    shown = CliRunner().invoke(app, ["audit"]).output
    assert "?[2Jgone?" in shown
    assert "\x1b" not in shown
    as_json = CliRunner().invoke(app, ["audit", "--json"]).output
    assert as_json.count("\n") == 1
