"""Real trainings, and what people are told of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.home import Home
from tests.e2e.live import Training, runs
from tests.support import slack_server, slack_socket
from tests.support.slack_server import SlackServer
from tests.support.slack_socket import OPERATOR, SocketMode, buttons_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

STEPS = ("--steps", "120", "--eval-every", "120")


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


def test_a_diverging_training_is_one_thread_and_its_healthy_twin_none(
    tmp_path: Path, own_home: Home, slack: SlackServer
) -> None:
    """Both at once, under one agent: root, picture, action and resolution of the one."""
    folders = tmp_path / "sick", tmp_path / "well"
    for folder in folders:
        folder.mkdir()
    sick = Training(
        folders[0], own_home, *STEPS, "--trouble", watched=["--guard", "--name", "sick"]
    )
    well = Training(folders[1], own_home, *STEPS, watched=["--guard", "--name", "well"])
    assert sick.wait() == 0, sick.text()
    assert well.wait() == 0, well.text()
    eventually(lambda: [run.state for run in runs(own_home)] == ["finished"] * 2)

    def resolution() -> str:
        replies = [reply["text"] for root in slack.workspace.roots
                   for reply in slack.workspace.thread(root)]  # fmt: skip
        return next((text for text in replies if "*Resolved*" in text), "")

    eventually(resolution)
    (root,) = slack.workspace.roots
    replies = slack.workspace.thread(root)
    assert "The learning rate jumps · sick" in root["text"]
    assert replies[0]["text"].startswith("Details")
    (picture,) = [reply["file"]["data"] for reply in replies if "file" in reply]
    assert picture.startswith(b"\x89PNG")
    assert eventually(lambda: "resolved" in root["text"])
    # An action that was faster than the first message stands in that alone, else in a reply too.
    assert "rolled back" in str(root["blocks"])
    assert "well" not in str(slack.workspace.messages)


def test_a_training_that_diverges_is_stopped_by_a_button(
    tmp_path: Path, own_home: Home, slack: SlackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is only observed; nothing else would have ended it."""
    socket = SocketMode(slack)
    monkeypatch.setenv("LOSSGUARD_SLACK_APP_TOKEN", slack_socket.APP_TOKEN)
    own_home.settings_path.write_text(
        f'[slack]\nchannel = "training"\noperators = ["{OPERATOR}"]\n'
    )
    long = ("--steps", "100000", "--learning-rate", "1e8")
    training = Training(tmp_path, own_home, *long, watched=["--name", "lost"])
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
