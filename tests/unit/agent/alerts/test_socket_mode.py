"""The connection that presses come by, against Slack's Socket Mode on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.agent.alerts import socket_mode
from lossguard.agent.alerts.press import Press
from lossguard.agent.alerts.secrecy import APP_TOKEN
from lossguard.agent.alerts.settings import SlackSettings
from lossguard.agent.alerts.slack import API_URL
from lossguard.agent.alerts.socket_mode import SocketMode
from tests.support import slack_server, slack_socket
from tests.support.slack_server import Fault, SlackServer
from tests.support.waiting import becomes, eventually

MESSAGE = {
    "ts": "1.1", "channel": slack_server.GENERAL, "text": "x",
    "blocks": [{"type": "actions", "elements": [
        {"type": "button", "action_id": "lossguard.ack", "value": "v",
         "text": {"type": "plain_text", "text": "Acknowledge"}}]}],
}  # fmt: skip


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[slack_socket.SocketMode]:
    server = SlackServer()
    mode = slack_socket.SocketMode(server)
    monkeypatch.setenv(API_URL, server.url)
    monkeypatch.setenv(APP_TOKEN, slack_socket.APP_TOKEN)
    monkeypatch.setattr(socket_mode, "_LOOK_EVERY_S", 0.02)
    yield mode
    mode.close()
    server.close()


@pytest.fixture
def presses() -> list[Press]:
    return []


@pytest.fixture
def listening(presses: list[Press]) -> Iterator[SocketMode]:
    listening = SocketMode(SlackSettings(operators=("U01",)), presses.append)
    listening.start()
    yield listening
    listening.close(patience_s=10.0)


def test_a_press_is_acknowledged_and_handed_over(
    slack: slack_socket.SocketMode, listening: SocketMode, presses: list[Press]
) -> None:
    eventually(listening.is_live)
    envelope = slack.press("ack", message=MESSAGE)
    eventually(lambda: envelope.was_acked_in_time)
    (press,) = eventually(lambda: presses)
    assert (press.user, press.value) == (slack_socket.OPERATOR, "v")
    eventually(lambda: slack.connections[0].pongs)
    assert slack.broken_rules == []
    assert listening.state.state == "ok"


def test_a_connection_that_slack_wants_renewed_or_drops_is_made_again(
    slack: slack_socket.SocketMode, listening: SocketMode, presses: list[Press],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    becomes(lambda: listening.state.state, "ok")
    slack.disconnect("warning")
    eventually(lambda: slack.said_hello == 2)
    becomes(lambda: [one.pongs for one in slack.connections], [1])  # it is listened to
    slack.connections[0].drop()
    eventually(lambda: slack.said_hello == 3)
    becomes(lambda: listening.state.state, "ok")
    assert listening.is_live()
    slack.press("ack", message=MESSAGE)
    eventually(lambda: presses)
    said = [record.message for record in caplog.records if record.name == socket_mode.__name__]
    assert said == [
        "buttons in Slack are listened to",
        "buttons in Slack wait: the connection to Slack was lost",
        "buttons in Slack are listened to",
    ]


@pytest.mark.parametrize(
    ("token", "scopes", "says"),
    [
        ("xapp-not-this-one", None, "does not take the app token (invalid_auth)"),
        ("xapp-no-scope", set(), "lacks the scope connections:write"),
        (slack_server.TOKEN, None, "does not take the app token (not_allowed_token_type)"),
        ("", None, "there is no secret: set LOSSGUARD_SLACK_APP_TOKEN"),
    ],
)
def test_what_a_person_has_to_put_right_is_one_line_and_a_state(
    slack: slack_socket.SocketMode, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, token: str, scopes: set[str] | None, says: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(APP_TOKEN, token)
    if scopes is not None:
        slack.server.workspace.tokens[token] = scopes
    listening = SocketMode(SlackSettings(), lambda press: None)
    listening.start()
    becomes(lambda: listening.state.state, "failing")
    assert says in listening.state.why
    assert listening.is_live() is False
    listening.close(patience_s=10.0)
    assert len([record for record in caplog.records if says in record.message]) == 1
    assert not token or token not in caplog.text


def test_a_token_from_a_file_that_others_can_read_is_refused(
    slack: slack_socket.SocketMode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(APP_TOKEN)
    file = tmp_path / "token"
    file.write_text(slack_socket.APP_TOKEN)
    for mode, state in ((0o644, "failing"), (0o600, "ok")):
        file.chmod(mode)
        settings = SlackSettings(app_token_file=str(file))
        listening = SocketMode(settings, lambda press: None)
        listening.start()
        becomes(lambda: listening.state.state, state)  # noqa: B023
        listening.close(patience_s=10.0)


def test_a_slack_that_asks_for_patience_or_is_gone_is_waited_for(
    slack: slack_socket.SocketMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack.server.workspace.fail(
        "apps.connections.open", Fault(429, "ratelimited", retry_after=1), Fault(drops=True)
    )
    listening = SocketMode(SlackSettings(), lambda press: None)
    listening.start()
    becomes(lambda: listening.state.state, "waiting")
    assert listening.is_live() is None
    becomes(lambda: listening.state.state, "ok")
    assert slack.server.workspace.calls.count("apps.connections.open") == 3
    listening.close(patience_s=10.0)


@pytest.mark.parametrize(
    "url", ["ws://wss.example.com/link", "wss://wss.example.com:8443/link", "http://x/"]
)
def test_no_press_goes_over_a_network_in_the_clear(
    slack: slack_socket.SocketMode, url: str
) -> None:
    slack.server.methods["apps.connections.open"] = lambda arguments, token: {"url": url}
    listening = SocketMode(SlackSettings(), lambda press: None)
    listening.start()
    becomes(lambda: listening.state.state, "waiting")
    assert "not encrypted" in listening.state.why
    listening.close(patience_s=10.0)
