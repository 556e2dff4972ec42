"""A real training is operated from a message about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.home import Home
from tests.e2e.live import EndlessTraining
from tests.support import slack_server, slack_socket
from tests.support.slack_server import SlackServer
from tests.support.slack_socket import OPERATOR, SocketMode, buttons_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def slack(own_home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackServer]:
    """Slack on this machine, and a home whose agent tells it."""
    server = SlackServer()
    own_home.config.mkdir(parents=True)
    own_home.settings_path.write_text('[slack]\nchannel = "training"\n')
    monkeypatch.setenv("LOSSGUARD_SLACK_API_URL", server.url)
    monkeypatch.setenv("LOSSGUARD_SLACK_BOT_TOKEN", slack_server.TOKEN)
    yield server
    server.close()


def test_a_training_that_diverges_is_stopped_by_a_button(
    tmp_path: Path, own_home: Home, slack: SlackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is only observed; nothing else would have ended it."""
    socket = SocketMode(slack)
    monkeypatch.setenv("LOSSGUARD_SLACK_APP_TOKEN", slack_socket.APP_TOKEN)
    own_home.settings_path.write_text(
        f'[slack]\nchannel = "training"\noperators = ["{OPERATOR}"]\n'
    )
    training = EndlessTraining(tmp_path, own_home, "1e8", watched=["--name", "lost"])
    try:

        def offered() -> list[str]:
            return [name for root in slack.workspace.roots for name in buttons_of(root)]

        eventually(lambda: "stop" in offered())
        assert "rollback" not in offered()  # who observes, has no snapshots
        press = socket.press("stop")
        assert training.wait() == 75, training.text()[-2000:]
        assert press.was_acked_in_time
        eventually(lambda: not offered())
        (root,) = slack.workspace.roots

        def answers() -> list[str]:
            texts = [reply["text"] for reply in slack.workspace.thread(root)]
            return [text for text in texts if f"by <@{OPERATOR}>" in text]

        assert "run stopped" in eventually(answers)[0]
    finally:
        training.process.kill()
        socket.close()
