"""``lossguard notify test``: the way of alerts, tried out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from lossguard.agent.alerts import slack as slack_module
from lossguard.agent.alerts.secrecy import TOKEN, WEBHOOK
from lossguard.agent.cli import app
from lossguard.home import Home
from tests.support import slack_server
from tests.support.slack_server import Fault, SlackServer

PNG = b"\x89PNG\r\n\x1a\n of a test"


@pytest.fixture
def slack(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackServer]:
    """Slack, and settings that name it."""
    server = SlackServer()
    home.config.mkdir(parents=True)
    home.settings_path.write_text('[slack]\nchannel = "training"\n')
    monkeypatch.setenv(slack_module.API_URL, server.url)
    monkeypatch.setenv(TOKEN, slack_server.TOKEN)
    monkeypatch.delenv(WEBHOOK, raising=False)
    monkeypatch.setattr(slack_module, "picture_of", lambda news: PNG)
    yield server
    server.close()


def notify(*options: str) -> Result:
    return CliRunner().invoke(app, ["notify", "test", *options])


def test_a_message_and_a_picture_arrive(slack: SlackServer) -> None:
    done = notify("--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "target": "slack", "sent": 2, "of": 2, "why": "", "exit_code": 0,
    }  # fmt: skip
    (root,) = slack.workspace.roots
    assert [reply["file"]["data"] for reply in slack.workspace.thread(root)] == [PNG]


def test_by_webhook_there_is_no_picture(
    slack: SlackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN)
    monkeypatch.setenv(WEBHOOK, slack.webhook)
    assert notify().stdout == "slack: 1 of 1 messages sent\n"
    assert len(slack.workspace.messages) == 1


def test_what_a_person_has_to_put_right_is_said_with_code_78(slack: SlackServer) -> None:
    slack.workspace.tokens = {slack_server.TOKEN: {"chat:write"}}
    done = notify()
    assert done.exit_code == 78
    lacks = "the Slack app lacks the scope files:write"
    assert done.stdout.startswith(f"slack: 1 of 2 messages sent: {lacks}")
    slack.workspace.tokens = {}
    done = notify()
    assert done.exit_code == 78
    assert "invalid_auth" in done.stdout
    assert slack_server.TOKEN not in done.output


def test_nothing_set_up_is_said_with_what_to_set(
    slack: SlackServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN)
    home.settings_path.unlink()
    done = notify()
    assert done.exit_code == 78
    assert TOKEN in done.stdout
    assert str(home.settings_path) in done.stdout


def test_a_slack_that_does_not_answer_is_code_69(
    slack: SlackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossguard.agent.alerts import trial

    monkeypatch.setattr(trial, "_PATIENCE_S", 0.3)
    slack.workspace.fail("auth.test", *[Fault(503, "service_unavailable")] * 99)
    done = notify("--json")
    assert done.exit_code == 69
    assert "503" in json.loads(done.stdout)["why"]
