"""Buttons in Slack: a real agent, a probe by hand, Slack's Socket Mode on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from lossguard.agent.alerts.secrecy import APP_TOKEN, TOKEN
from lossguard.agent.audit import AuditLine, read_audit
from lossguard.agent.cli import app
from lossguard.home import Home
from lossguard.probes import wire
from tests.support import slack_server, slack_socket
from tests.support.agents import BeginAgent
from tests.support.probe import FakeProbe, hello_of
from tests.support.slack_server import SlackServer
from tests.support.slack_socket import OPERATOR, OTHER, SocketMode, buttons_of
from tests.support.streams import diverge
from tests.support.waiting import becomes, eventually


@pytest.fixture
def socket(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketMode]:
    """Slack, and a home whose agent obeys one person in it."""
    server = SlackServer()
    server.workspace.limits_rate = False
    mode = SocketMode(server)
    home.config.mkdir(parents=True)
    home.settings_path.write_text(
        f'[slack]\nchannel = "training"\noperators = ["{OPERATOR}"]\n'
        "[alerts]\nkeep_firing_s = 0.5\n"
    )
    monkeypatch.setenv("LOSSGUARD_SLACK_API_URL", server.url)
    monkeypatch.setenv(TOKEN, slack_server.TOKEN)
    monkeypatch.setenv(APP_TOKEN, slack_socket.APP_TOKEN)
    yield mode
    mode.close()
    server.close()


def shown(socket: SocketMode) -> dict[str, dict[str, Any]]:
    """The buttons of the first root message, as it reads now."""
    roots = socket.server.workspace.roots
    return buttons_of(roots[0]) if roots else {}


def replies(socket: SocketMode) -> list[str]:
    root = socket.server.workspace.roots[0]
    return [reply["text"] for reply in socket.server.workspace.thread(root)]


def whispers(socket: SocketMode) -> list[str]:
    return [whisper["text"] for whisper in socket.server.workspace.whispers]


def pressed_commands(probe: FakeProbe) -> list[wire.Command]:
    """What the run was ordered by buttons, each order once."""
    orders = {order.command: order for order in probe.commands()}
    return [order for name, order in orders.items() if name.startswith("slack.")]


def audited(home: Home, result: str) -> list[AuditLine]:
    return [line for line in read_audit(home.audit_path) if line.result == result]


def test_a_press_is_heard_obeyed_once_answered_and_its_button_goes(
    home: Home, socket: SocketMode, begin_agent: BeginAgent
) -> None:
    begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        diverge(probe.join())
        becomes(lambda: list(shown(socket)), ["ack", "mute", "skip", "rollback", "stop"])
        before = socket.message_with("rollback")
        press = socket.press("rollback")
        eventually(lambda: press.was_acked_in_time)
        becomes(lambda: list(shown(socket)), ["ack", "mute", "skip", "stop"])
        (order,) = eventually(lambda: pressed_commands(probe))
        assert (order.action, order.args) == ("rollback", {"onset": 81})

        socket.deliver(press)  # Slack was not sure that it had arrived
        socket.press("rollback", message=before)  # the finger was faster than the message
        eventually(lambda: "was pressed before (pending)" in str(whispers(socket)))
        assert len(whispers(socket)) == 1

        probe.ack(order, restored_step=70)
        answer = f"rolled back (restored step 70), by <@{OPERATOR}>"
        eventually(lambda: any(answer in text for text in replies(socket)))
        eventually(lambda: answer in str(socket.server.workspace.roots[0]["blocks"]))
        assert len(pressed_commands(probe)) == 1
        probe.bye()
        eventually(lambda: not shown(socket))
    assert [text for text in replies(socket) if OPERATOR in text] == [
        text for text in replies(socket) if answer in text
    ]
    who = f"Slack user {OPERATOR}"
    (accepted,) = [one for one in audited(home, "accepted") if one.who == who]
    (done,) = [one for one in audited(home, "done") if one.who == who]
    assert (accepted.verb, accepted.command, done.command) == ("rollback", *[order.command] * 2)
    (refused,) = audited(home, "refused")
    assert (refused.who, refused.command) == (who, order.command)
    assert socket.broken_rules == []


@pytest.mark.slow
def test_a_stranger_and_a_forger_are_refused_and_the_next_press_of_an_operator_is_obeyed(
    home: Home, socket: SocketMode, begin_agent: BeginAgent
) -> None:
    begin_agent()
    with FakeProbe(home, hello_of(policy="observe")) as probe:
        diverge(probe.join())
        value = eventually(lambda: shown(socket))["skip"]["value"]
        assert "rollback" not in shown(socket)  # who observes, has no snapshots
        socket.press("skip", OTHER)
        eventually(lambda: "not among the operators" in str(whispers(socket)))
        socket.press("skip", value=value[:60] + ("B" if value[60] == "A" else "A") + value[61:])
        eventually(lambda: "was not made by this agent, or has been" in str(whispers(socket)))
        assert pressed_commands(probe) == []
        assert [line.verb for line in audited(home, "refused")] == ["press", "press"]

        socket.press("ack")
        eventually(lambda: any("acknowledged" in text for text in replies(socket)))
        becomes(lambda: list(shown(socket)), ["mute", "skip", "stop"])
        socket.press("skip")
        (order,) = eventually(lambda: pressed_commands(probe))
        probe.ack(order, "failed", why="no update to skip")
        words = f"skip *failed*: no update to skip; asked for by <@{OPERATOR}>"
        eventually(lambda: any(words in text for text in replies(socket)))


@pytest.mark.slow
def test_a_connection_that_breaks_or_is_to_be_renewed_is_made_again(
    home: Home, socket: SocketMode, begin_agent: BeginAgent
) -> None:
    agent = begin_agent()
    with FakeProbe(home, hello_of(policy="observe")) as probe:
        diverge(probe.join())
        eventually(lambda: shown(socket))
        socket.connections[0].drop()
        eventually(lambda: socket.said_hello == 2 and socket.connections)
        socket.press("ack")
        eventually(lambda: any("acknowledged" in text for text in replies(socket)))
        becomes(lambda: [one.pongs for one in socket.connections], [1])  # it is listened to
        socket.disconnect("refresh_requested")
        eventually(lambda: socket.said_hello == 3)
        becomes(lambda: [one.pongs for one in socket.connections], [1])
        press = socket.press("mute")
        eventually(lambda: press.was_acked_in_time)
        becomes(lambda: list(shown(socket)), ["skip", "stop"])
    assert "the connection to Slack was lost" in agent.log
    assert agent.log.count("buttons in Slack are listened to") == 2


@pytest.mark.parametrize(
    "after", ["commands.journaled", pytest.param("commands.sent", marks=pytest.mark.slow)]
)
def test_an_agent_killed_after_a_press_does_it_once_and_says_what_it_knows(
    home: Home,
    socket: SocketMode,
    begin_agent: BeginAgent,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
) -> None:
    """kill -9 once the order is on disk, and once it is under way."""
    monkeypatch.setenv("LOSSGUARD_FAILPOINT", f"{after}:kill")
    first = begin_agent()
    monkeypatch.delenv("LOSSGUARD_FAILPOINT")
    with FakeProbe(home, hello_of(policy="observe")) as probe:
        diverge(probe.join())
        eventually(lambda: shown(socket))
        press = socket.press("skip")
        eventually(lambda: first.process.poll() is not None)
        assert press.was_acked_in_time
        begin_agent()
        probe.join()
        (order,) = eventually(lambda: pressed_commands(probe))
        becomes(lambda: list(shown(socket)), ["ack", "mute", "stop"])
        socket.deliver(press)
        eventually(lambda: "was pressed before" in str(whispers(socket)))
        probe.ack(order)
        words = "update skipped, by somebody in Slack"
        eventually(lambda: any(words in text for text in replies(socket)))
        assert len(pressed_commands(probe)) == 1


def test_an_agent_killed_while_the_run_makes_up_its_mind_knows_who_asked(
    home: Home, socket: SocketMode, begin_agent: BeginAgent
) -> None:
    first = begin_agent()
    with FakeProbe(home, hello_of(policy="observe")) as probe:
        diverge(probe.join())
        eventually(lambda: shown(socket))
        socket.press("skip")
        (order,) = eventually(lambda: pressed_commands(probe))
        eventually(lambda: audited(home, "accepted"))
        first.kill()
        begin_agent()
        probe.join()
        probe.ack(order)
        words = f"update skipped, by <@{OPERATOR}>"
        eventually(lambda: any(words in text for text in replies(socket)))
        assert sum(words in text for text in replies(socket)) == 1


@pytest.mark.slow
def test_a_token_that_is_not_taken_is_said_once_and_the_message_has_the_command_to_type(
    home: Home,
    socket: SocketMode,
    begin_agent: BeginAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token, says = "xapp-not-this-one", "does not take the app token (invalid_auth)"
    monkeypatch.setenv(APP_TOKEN, token)
    agent = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        diverge(probe.join())
        eventually(lambda: socket.server.workspace.roots)
        eventually(lambda: says in agent.log)
        assert shown(socket) == {}
        assert "lossguard send run-a rollback" in str(socket.server.workspace.roots[0]["blocks"])
    assert agent.log.count(says) == 1
    assert token not in agent.log
    doctor = CliRunner().invoke(app, ["doctor"])
    assert doctor.exit_code == 1
    assert f"slack buttons: Slack {says}" in doctor.stdout


@pytest.mark.slow
def test_without_operators_there_are_no_buttons(
    home: Home, socket: SocketMode, begin_agent: BeginAgent
) -> None:
    home.settings_path.write_text('[slack]\nchannel = "training"\n')
    agent = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        diverge(probe.join())
        eventually(lambda: socket.server.workspace.roots and replies(socket))
    assert shown(socket) == {}
    assert "no buttons: there is nobody in [slack] operators" in agent.log
    assert socket.said_hello == 0
