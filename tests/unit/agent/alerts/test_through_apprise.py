"""Messages in plain words, to whatever Apprise has a URL for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.agent.alerts.notes import note_of, plain_words
from lossguard.agent.alerts.other_settings import APPRISE, AppriseSettings
from lossguard.agent.alerts.through_apprise import ThroughApprise, label_of, urls_of
from lossguard.agent.alerts.transport import NotNow
from lossguard.errors import ConfigError
from tests.support.incidents_told import NOON, DeskAt, a_run, changed, deed, incident, resolved
from tests.support.web_server import WebServer

pytest.importorskip("apprise")
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What would stand in the agent's log, were it at its most talkative."""
    lines: list[str] = []
    root = logging.getLogger()
    level = root.level
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.setLevel(level)
    root.removeHandler(handler)


def service(server: WebServer) -> ThroughApprise:
    """Apprise's own way to send JSON anywhere, with a secret in it."""
    return ThroughApprise(
        f"json://user:hidden-word@{server.url.removeprefix('http://')}/hidden-path"
    )


def test_a_note_says_in_plain_words_what_a_tired_person_needs() -> None:
    (note, *_) = filter(None, map(note_of, DeskAt().hear(incident(message="a < b & c"))))
    assert note.title.startswith("Lossguard: ")
    assert note.title.endswith(" · gpt")
    assert note.mood == "critical"
    for words in ("a < b & c", "8.3, expected 2 to 2.4", "run-a", "lossguard show run-a.1"):
        assert words in note.text
    for mark in ("&lt;", "<!date", ":red_circle:", "*Next*", "**"):
        assert mark not in note.title + note.text


def test_an_incident_is_a_note_when_it_begins_and_one_when_it_ends() -> None:
    desk, trouble = DeskAt(), incident()
    desk.hear(trouble)
    acted = changed(trouble, actions=[deed()])
    desk.hear(acted)
    desk.hear(resolved(acted))
    desk.wait(120.0)
    notes = [note for saying in desk.said if (note := note_of(saying)) is not None]
    assert [note.mood for note in notes] == ["critical", "good"]
    assert notes[0].title == notes[1].title, "mail programs put them together"


def test_a_run_that_died_is_a_note() -> None:
    desk = DeskAt()
    desk.hear(a_run())
    desk.hear(a_run("died"))
    notes = [note for saying in desk.said if (note := note_of(saying)) is not None]
    assert ["died" in note.title for note in notes] == [True]


@pytest.mark.parametrize(
    ("slack", "plain"),
    [
        ("*Now critical*: 3*4 and 5*6", "Now critical: 3*4 and 5*6"),
        ("<!date^1750000000^{date} at {time}|2025-06-15 15:06:40 UTC>", "2025-06-15 15:06:40 UTC"),
        (":red_circle: it is 12:30:00 &amp; late", "it is 12:30:00 & late"),
    ],
)
def test_the_marks_of_slack_are_taken_away(slack: str, plain: str) -> None:
    assert plain_words(slack) == plain


def test_a_message_arrives_with_its_severity(server: WebServer) -> None:
    target = service(server)
    assert target.connect().startswith("apprise-json-")
    for saying in DeskAt().hear(incident()):
        if (post := target.render(saying, NOON)) is not None:
            target.deliver(post, "", None)
    (asked,) = server.asked
    body = json.loads(asked.body)
    assert (asked.path, body["type"]) == ("/hidden-path", "failure")
    assert body["title"].startswith("Lossguard: ")
    assert "run-a" in body["message"]


def test_one_that_is_not_taken_is_tried_again_and_says_why_without_the_secrets(
    server: WebServer, logged: list[str]
) -> None:
    server.answers.append((500, {}))
    target = service(server)
    with pytest.raises(NotNow, match=r"did not take it.*500") as caught:
        target.deliver(target.trial(NOON), "", None)
    assert "hidden" not in str(caught.value) + str(logged)
    target.deliver(target.trial(NOON), "", None)
    assert len(server.asked) == 2


def test_a_url_that_apprise_does_not_know_is_said_without_it(
    logged: list[str],
) -> None:
    with pytest.raises(NotNow, match="apprise-nonsense-") as caught:
        ThroughApprise("nonsense://hidden-word@host").connect()
    assert caught.value.is_setup
    assert "hidden" not in str(caught.value) + str(logged)


def test_urls_come_one_a_line_from_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(APPRISE, raising=False)
    file = tmp_path / "urls"
    file.write_text("# mail\nmailto://a:b@example.com\n\n  discord://1/2  \ndiscord://1/2\n")
    file.chmod(0o600)
    settings = AppriseSettings(urls_file=str(file))
    assert urls_of(settings) == ["mailto://a:b@example.com", "discord://1/2"]
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        urls_of(settings)
    monkeypatch.setenv(APPRISE, "\n".join(f"json://host{i}" for i in range(9)))
    with pytest.raises(ConfigError, match="more than 8"):
        urls_of(settings)


def test_a_label_says_the_kind_and_nothing_of_the_secret() -> None:
    one, other = label_of("mailto://u:pass@a.example"), label_of("mailto://u:pass@b.example")
    assert one != other
    assert one.startswith("apprise-mailto-")
    assert len(one) == len("apprise-mailto-") + 4
