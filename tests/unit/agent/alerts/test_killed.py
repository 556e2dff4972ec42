"""kill -9 anywhere between an intent and its record: nothing is missed, at most one is repeated."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from lossguard.agent.alerts.journal import Journal, Place
from lossguard.agent.alerts.records import IncidentNews
from lossguard.agent.alerts.rendering import Edit, Outgoing, Picture, Post
from lossguard.agent.alerts.settings import AlertSettings, SlackSettings
from lossguard.agent.alerts.worker import Teller
from tests.support.incidents_told import NOON, a_series, deed, incident, resolved

STORY = [
    incident(series=(a_series(),)),
    incident(actions=[deed()]),
    resolved(incident(actions=[deed()])),
    incident(2, symptom="memory_growth", run="run-b", series=(a_series(),)),
]
"""How things stand, one after the other."""


class Killed(BaseException):
    """The process is gone: nothing of it goes on, not even what catches exceptions."""


@dataclass
class Slack:
    """What people see. It outlives every agent."""

    posts: list[tuple[str, str]] = field(default_factory=list)
    edits: dict[str, str] = field(default_factory=dict)
    threads: dict[str, set[str]] = field(default_factory=dict)
    """Of each root, what was said in its thread."""


class Deadly:
    """A transport; the agent that uses it dies at the ``dies_at``-th point it passes."""

    has_threads = True

    def __init__(self, slack: Slack, dies_at: int) -> None:
        self.slack = slack
        self.left = dies_at

    def pass_by(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def connect(self) -> str:
        return "a test"

    def channel_for(self, *, is_critical: bool) -> str:
        return "C1"

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        self.pass_by()
        found = self._take(what, place)
        self.pass_by()
        return found

    def _take(self, what: Outgoing, place: Place | None) -> Place | None:
        if isinstance(what, Edit):
            assert place is not None
            self.slack.edits[what.address] = _timeless(what.text)
            return None
        assert isinstance(what, Post | Picture)
        text = "a picture" if isinstance(what, Picture) else _timeless(what.text)
        self.slack.posts.append((what.thread, text))
        ts = f"{len(self.slack.posts)}"
        if place is None:
            self.slack.threads[ts] = set()
        else:
            self.slack.threads[place.ts].add(text)
        return Place("C1", ts)


def _timeless(text: str) -> str:
    return re.sub(r", [^,]* after it began", "", text)


def live(path: Path, slack: Slack, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> bool:
    """Agents on one disk, one after the other, until all is told; whether the first one died."""
    transport = Deadly(slack, dies_at)
    commit = Journal.commit

    def deadly_commit(journal: Journal) -> None:
        if not journal._unwritten:
            return
        transport.pass_by()
        commit(journal)
        transport.pass_by()

    monkeypatch.setattr(Journal, "commit", deadly_commit)
    died = False
    now, stage = NOON, 0
    while stage < len(STORY):
        settings = (SlackSettings(channel="C1"), AlertSettings(keep_firing_s=5))
        teller = Teller(path, transport, *settings, now)
        try:
            # An agent that begins looks at how all stands, and not at what was before.
            for news in _newest(STORY[: stage + 1]):
                teller.hear(news, now)
            while stage < len(STORY):
                teller.hear(STORY[stage], now)
                for _ in range(7):
                    now += 1.0
                    teller.turn(now, now)
                stage += 1
        except Killed:
            died = True
        crash(teller)
    return died


def crash(teller: Teller) -> None:
    """What was not committed is lost, as with the process."""
    teller.journal._db.rollback()
    teller.journal._db.close()


def _newest(story: list[IncidentNews]) -> list[IncidentNews]:
    return list({news.line.id: news for news in story}.values())


def test_nothing_is_missed_and_at_most_one_repeated_wherever_the_agent_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Slack()
    assert not live(tmp_path / "whole.db", whole, monkeypatch, dies_at=10**9)
    expected = Counter(whole.posts)
    assert len(expected) == len(whole.posts) == 8, whole.posts  # 3 + 2, and 3 of another run

    point = 0
    while True:
        point += 1
        slack = Slack()
        if not live(tmp_path / f"{point}.db", slack, monkeypatch, dies_at=point):
            break
        seen = Counter(slack.posts)
        assert not expected - seen, (point, expected - seen)
        assert (seen - expected).total() <= 1, (point, seen - expected)
        assert slack.edits == whole.edits, point
    assert point > 40  # before and after each message, each record of one, each look of the desk


def test_threads_go_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slack = Slack()
    live(tmp_path / "a.db", slack, monkeypatch, dies_at=10**9)
    (first, second) = slack.threads.values()
    assert len(first) == 4
    assert len(second) == 2


def in_a_loop(journal: Journal, text: str) -> None:
    journal.intend([Edit(address="a", text=text, blocks=[])], NOON)


def test_a_change_of_a_message_replaces_the_one_that_waits(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.db", NOON)
    for number in range(50):
        in_a_loop(journal, str(number))
    assert [row.what.text for row in journal.waiting.values()] == ["49"]  # type: ignore[union-attr]
    journal.close()
    again = Journal(tmp_path / "a.db", NOON)
    assert list(again.waiting.values()) == list(journal.waiting.values())
    again.close()


def test_a_disk_that_takes_nothing_holds_nothing_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.db", NOON)
    journal._db.execute("PRAGMA query_only = 1")
    post = Post(text="x", blocks=[], address="a")
    journal.intend([post], NOON)
    (row,) = journal.waiting.values()
    journal.sent(row, Place("C1", "1.0"))
    assert journal.places == {"a": Place("C1", "1.0")}
    journal._db.execute("PRAGMA query_only = 0")
    journal.close()
    again = Journal(tmp_path / "a.db", NOON)
    assert again.places == {"a": Place("C1", "1.0")}  # written as soon as the disk took it
    again.close()


@pytest.mark.parametrize(
    "damage", ["UPDATE memory SET body = x'ff'", "UPDATE outbox SET body = x'ff'"]
)
def test_rows_that_make_no_sense_are_left_out(tmp_path: Path, damage: str) -> None:
    journal = Journal(tmp_path / "a.db", NOON)
    journal.intend([Post(text="x", blocks=[])], NOON)
    journal.close()
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute(damage)
    db.close()
    again = Journal(tmp_path / "a.db", NOON + 1)
    assert again.case_file.since in (NOON, NOON + 1)
    again.close()


def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"no database" * 100)
    Journal(path, NOON).close()
    assert list(tmp_path.glob("a.db.damaged-*"))


def test_messages_survive_the_disk_unchanged(tmp_path: Path) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "ü <!here>"}}]
    outgoing: list[Outgoing] = [
        Post(text="x", blocks=blocks, thread="a", is_loud=True),
        Edit(address="a", text="y", blocks=blocks),
        Picture(thread="a", news=incident(series=(a_series(broken=True),))),
    ]
    journal = Journal(tmp_path / "a.db", NOON)
    journal.intend(outgoing, NOON)
    journal.close()
    again = Journal(tmp_path / "a.db", NOON)
    packed = [msgspec.msgpack.encode(row.what) for row in again.waiting.values()]
    assert packed == [msgspec.msgpack.encode(what) for what in outgoing]
    again.close()
