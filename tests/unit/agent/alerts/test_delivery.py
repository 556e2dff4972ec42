"""Slack as it is: slow, full, locked, archived, silent; by a server that refuses as it does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from lossguard.agent.alerts import slack as slack_module
from lossguard.agent.alerts.delivery import Delivery
from lossguard.agent.alerts.journal import Journal
from lossguard.agent.alerts.rendering import Edit, Outgoing, Picture, Post
from lossguard.agent.alerts.secrecy import TOKEN, WEBHOOK
from lossguard.agent.alerts.settings import SlackSettings
from lossguard.agent.alerts.slack import API_URL, transport_for
from lossguard.agent.alerts.transport import Transport
from tests.support import slack_server
from tests.support.incidents_told import NOON, a_series, incident
from tests.support.slack_server import GENERAL, OLD, PAGES, Fault, SlackServer

PNG = b"\x89PNG\r\n\x1a\n of a test"
ROOT = Post(text="root", blocks=[], address="a")
REPLY = Post(text="reply", blocks=[], thread="a", stands_alone=False)
EDIT = Edit(address="a", text="root, changed", blocks=[])
PICTURE = Picture(thread="a", news=incident(series=(a_series(),)))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackServer]:
    """Slack on this machine, and a good token for it."""
    running = SlackServer()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", WEBHOOK):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(API_URL, running.url)
    monkeypatch.setenv(TOKEN, slack_server.TOKEN)
    monkeypatch.setattr(slack_module, "_TIMEOUT_S", 0.5)
    monkeypatch.setattr(slack_module, "picture_of", lambda news: PNG)
    yield running
    running.close()


class Sender:
    """A delivery with a clock of its own."""

    def __init__(self, folder: Path, transport: Transport) -> None:
        self.journal = Journal(folder / "alerts.db", NOON)
        self.delivery = Delivery(self.journal, transport)
        self.clock_s = 0.0

    def send(self, *messages: Outgoing, turns: int = 10) -> None:
        self.journal.intend(list(messages), NOON + self.clock_s)
        self.turn(turns)

    def turn(self, turns: int = 10, after_s: float = 0.0) -> None:
        """As often as a thread would without waiting."""
        self.clock_s += after_s
        for _ in range(turns):
            self.delivery.turn(NOON + self.clock_s, self.clock_s)

    @property
    def state(self) -> tuple[str, str]:
        return self.delivery.state.state, self.delivery.state.why


@pytest.fixture
def sender(server: SlackServer, tmp_path: Path) -> Iterator[Sender]:
    """To the channel #training, and #pages for what is critical."""
    settings = SlackSettings(channel="training", critical_channel=PAGES)
    one = Sender(tmp_path, transport_for(settings))
    yield one
    one.journal.close()


def texts(server: SlackServer) -> list[str]:
    return [message["text"] for message in server.workspace.messages]


def test_a_thread_has_its_root_its_replies_its_picture_and_its_changes(
    server: SlackServer, sender: Sender
) -> None:
    loud = Post(text="loud", blocks=[], thread="a", is_loud=True)
    sender.send(ROOT, REPLY, PICTURE, loud, EDIT)
    (root,) = server.workspace.roots
    assert (root["text"], root["channel"], root["edited"]) == ("root, changed", GENERAL, True)
    first, picture, last = server.workspace.thread(root)
    assert (first["text"], first.get("reply_broadcast")) == ("reply", None)
    assert (picture["file"]["name"], picture["file"]["data"]) == ("run-a.1.png", PNG)
    assert last["reply_broadcast"] is True
    assert sender.state == ("ok", "")
    assert sender.delivery.state.sent == 5


def test_what_is_critical_has_its_own_channel(server: SlackServer, sender: Sender) -> None:
    sender.send(Post(text="x", blocks=[], is_critical=True))
    assert [message["channel"] for message in server.workspace.messages] == [PAGES]


def test_retry_after_is_waited_for_on_our_own_clock(server: SlackServer, sender: Sender) -> None:
    server.workspace.fail("chat.postMessage", Fault(429, "ratelimited", retry_after=3600))
    sender.send(ROOT)
    sender.turn(after_s=3599)
    assert server.workspace.calls.count("chat.postMessage") == 1
    assert sender.state[0] == "waiting"
    sender.turn(after_s=1)
    assert texts(server) == ["root"]
    assert sender.state == ("ok", "")


def test_a_burst_is_spread_so_that_slack_does_not_complain(
    server: SlackServer, sender: Sender
) -> None:
    server.workspace.limits_rate = False  # it looks at another clock
    sender.send(*[Post(text=str(number), blocks=[]) for number in range(12)], turns=50)
    assert len(texts(server)) == 5
    sender.turn(after_s=5.0)
    assert len(texts(server)) == 10
    sender.turn(after_s=5.0)
    assert texts(server) == [str(number) for number in range(12)]


def test_errors_of_slack_are_waited_out_longer_each_time(
    server: SlackServer, sender: Sender
) -> None:
    server.workspace.fail("chat.postMessage", *[Fault(500, "internal_error")] * 4)
    sender.send(ROOT)
    tried = []
    for second in range(60):
        before = len(server.workspace.calls)
        sender.turn(turns=1, after_s=1.0)
        if len(server.workspace.calls) > before:
            tried.append(second)
    assert texts(server) == ["root"]
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 4


def test_what_was_taken_without_an_answer_is_repeated_once(
    server: SlackServer, sender: Sender
) -> None:
    server.workspace.fail("chat.postMessage", Fault(accepts=True))
    sender.send(ROOT, REPLY)
    sender.turn(after_s=400)
    assert texts(server) == ["root", "root", "reply"]
    assert server.workspace.thread(server.workspace.roots[1])


def test_a_connection_that_is_lost_is_tried_again_by_us_and_not_within_the_call(
    server: SlackServer, sender: Sender
) -> None:
    sender.turn()
    server.workspace.fail("chat.postMessage", Fault(drops=True))
    sender.send(ROOT, turns=5)
    assert server.workspace.calls.count("chat.postMessage") == 1
    assert sender.state[0] == "waiting"
    sender.turn(after_s=5)
    assert texts(server) == ["root"]


def test_nobody_at_the_other_end_is_waited_for(
    server: SlackServer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_URL, "http://127.0.0.1:9/api/")
    sender.send(ROOT)
    assert sender.state[0] == "waiting"
    monkeypatch.setenv(API_URL, server.url)
    sender.turn(after_s=400)
    assert texts(server) == ["root"]


@pytest.mark.parametrize(
    ("scopes", "channel", "words"),
    [
        (None, "training", "invalid_auth"),
        ({"files:write"}, "training", "lacks the scope chat:write"),
        ({"chat:write", "files:write"}, "nowhere", "knows no channel 'nowhere'"),
        ({"chat:write", "files:write"}, OLD, "is archived"),
        ({"chat:write", "files:write"}, "", "there is no channel"),
    ],
)
def test_what_only_a_person_can_put_right_is_said_once_and_goes_on_when_it_is(
    server: SlackServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    scopes: set[str] | None,
    channel: str,
    words: str,
) -> None:
    server.workspace.tokens = {} if scopes is None else {slack_server.TOKEN: scopes}
    sender = Sender(tmp_path, transport_for(SlackSettings(channel=channel)))
    with caplog.at_level(logging.INFO):
        sender.send(ROOT)
        for _ in range(10):
            sender.turn(after_s=301)
    state, why = sender.state
    assert state == "failing"
    assert words in why
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert words in errors[0]
    assert "good" not in caplog.text
    server.workspace.tokens = {slack_server.TOKEN: {"chat:write", "files:write"}}
    server.workspace.channels += [slack_server.Channel("C0NEW", "nowhere")]
    server.workspace.channels[2].is_archived = False
    sender.turn(after_s=301)
    assert texts(server) == (["root"] if channel else [])
    sender.journal.close()


def test_an_archived_channel_does_not_hold_up_the_other_one(
    server: SlackServer, tmp_path: Path
) -> None:
    settings = SlackSettings(channel=OLD, critical_channel=PAGES)
    sender = Sender(tmp_path, transport_for(settings))
    sender.send(ROOT, REPLY, Post(text="critical", blocks=[], is_critical=True))
    assert texts(server) == ["critical"]
    sender.journal.close()


def test_a_new_token_in_the_file_is_found(
    server: SlackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN)
    path = tmp_path / "token"
    path.write_text("xoxb-old")
    path.chmod(0o600)
    sender = Sender(tmp_path, transport_for(SlackSettings(channel=GENERAL, token_file=str(path))))
    sender.send(ROOT)
    assert sender.state[0] == "failing"
    path.write_text(slack_server.TOKEN)
    sender.turn(after_s=301)
    assert texts(server) == ["root"]
    server.workspace.tokens = {"xoxb-newer": {"chat:write"}}
    path.write_text("xoxb-newer")
    sender.send(Post(text="later", blocks=[]))
    sender.turn(after_s=301)
    assert texts(server) == ["root", "later"]
    sender.journal.close()


def test_without_the_scope_for_files_there_are_messages_and_no_pictures(
    server: SlackServer, sender: Sender
) -> None:
    server.workspace.tokens = {slack_server.TOKEN: {"chat:write"}}
    sender.send(ROOT, PICTURE, REPLY)
    assert texts(server) == ["root", "reply"]
    assert "files:write" in sender.delivery.state.last_refusal
    assert not sender.journal.waiting


def test_blocks_that_slack_does_not_take_become_plain_words(
    server: SlackServer, sender: Sender
) -> None:
    sender.send(Post(text="plain", blocks=[{"type": "header", "colour": "red"}]))
    assert texts(server) == ["plain"]
    assert "blocks" not in server.workspace.messages[0]


def test_a_message_that_somebody_has_deleted_is_let_go(server: SlackServer, sender: Sender) -> None:
    sender.send(ROOT)
    server.workspace.messages.clear()
    sender.send(EDIT, REPLY, Post(text="next", blocks=[]))
    assert texts(server) == ["next"]
    assert not sender.journal.waiting


def test_a_picture_that_cannot_be_sent_is_given_up_and_the_rest_goes_on(
    server: SlackServer, sender: Sender
) -> None:
    server.workspace.fail("files.getUploadURLExternal", *[Fault(500, "internal_error")] * 9)
    sender.send(ROOT, PICTURE, REPLY)
    for _ in range(20):
        sender.turn(after_s=60)
    assert texts(server) == ["root", "reply"]


def test_a_webhook_gets_what_makes_sense_alone(
    server: SlackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN)
    monkeypatch.setenv(WEBHOOK, server.webhook)
    sender = Sender(tmp_path, transport_for(SlackSettings()))
    over = Post(text="over", blocks=[], thread="a")
    sender.send(ROOT, REPLY, PICTURE, EDIT, over)
    assert texts(server) == ["root", "over"]
    assert not sender.journal.waiting
    sender.journal.close()


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault(429, retry_after=60), "waiting"),
        (Fault(503, "upstream"), "waiting"),
        (Fault(404, "channel_not_found"), "failing"),
        (Fault(410, "channel_is_archived"), "failing"),
    ],
)
def test_a_webhook_is_waited_for_too(
    server: SlackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, state: str
) -> None:
    monkeypatch.delenv(TOKEN)
    monkeypatch.setenv(WEBHOOK, server.webhook)
    server.workspace.fail("webhook", fault)
    sender = Sender(tmp_path, transport_for(SlackSettings()))
    sender.send(ROOT)
    assert sender.state[0] == state
    sender.turn(after_s=301)
    assert texts(server) == ["root"]
    sender.journal.close()


@pytest.mark.parametrize("variable", [API_URL, WEBHOOK])
def test_no_secret_goes_over_a_network_in_the_clear(
    server: SlackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    if variable == WEBHOOK:
        monkeypatch.delenv(TOKEN)
    monkeypatch.setenv(variable, "http://192.0.2.1/services/x")
    sender = Sender(tmp_path, transport_for(SlackSettings(channel="training")))
    sender.send(ROOT)
    assert sender.state[0] == "failing"
    assert "https" in sender.state[1]
    sender.journal.close()


def test_what_has_waited_for_a_day_is_news_no_more(server: SlackServer, sender: Sender) -> None:
    server.workspace.fail("chat.postMessage", Fault(429, "ratelimited", retry_after=90_000))
    sender.send(ROOT, REPLY)
    sender.turn(after_s=90_001)
    assert texts(server) == []
    assert not sender.journal.waiting
