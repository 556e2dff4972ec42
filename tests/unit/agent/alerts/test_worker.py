"""The thread that tells: whatever goes wrong in it, it goes on, and the agent does not notice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lossguard.agent.alerts import rendering
from lossguard.agent.alerts import worker as worker_module
from lossguard.agent.alerts.journal import Place
from lossguard.agent.alerts.records import Root, Saying
from lossguard.agent.alerts.rendering import Outgoing
from lossguard.agent.alerts.settings import AlertSettings, SlackSettings
from lossguard.agent.alerts.worker import Teller, Worker, bundle_texts
from lossguard.errors import ConfigError
from tests.support.incidents_told import NOON, incident
from tests.support.waiting import becomes, eventually


class Slow:
    """A transport that takes its time: until ``go`` is set."""

    has_threads = True

    def __init__(self) -> None:
        self.go = threading.Event()
        self.texts: list[str] = []
        self.said: list[Outgoing] = []

    def connect(self) -> str:
        return "a test"

    def channel_for(self, *, is_critical: bool) -> str:
        return "C1"

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        self.go.wait()
        self.texts.append(type(what).__name__)
        self.said.append(what)
        return Place("C1", str(len(self.texts)))


@pytest.fixture
def slow() -> Iterator[Slow]:
    transport = Slow()
    yield transport
    transport.go.set()


def opened(folder: Path, transport: Slow) -> Teller:
    settings = AlertSettings()
    return Teller(folder / "a.db", transport, SlackSettings(channel="C1"), settings, NOON)


def test_a_slack_that_does_not_answer_holds_nobody_up(tmp_path: Path, slow: Slow) -> None:
    worker = Worker(lambda: opened(tmp_path, slow))
    worker.start()
    for _ in range(10_000):
        worker.tell([incident(opened=9e9)])
    worker.close(patience_s=0.01)  # it is held up itself
    slow.go.set()
    eventually(lambda: slow.texts)


def test_what_is_told_while_it_is_busy_is_told_as_it_stands_then(
    tmp_path: Path, slow: Slow
) -> None:
    slow.go.set()
    worker = Worker(lambda: opened(tmp_path, slow))
    worker.start()
    worker.tell([incident(number, run=f"run-{number}", opened=9e9) for number in range(2)])
    becomes(lambda: len(slow.texts), 4)
    becomes(lambda: (worker.state.state, worker.state.sent), ("ok", 4))
    worker.close(patience_s=10.0)


def test_trouble_of_its_own_is_said_once_and_tried_again(
    tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "_AFTER_TROUBLE_S", 0.01)
    slow.go.set()
    tries = []

    def open_teller() -> Teller:
        tries.append(1)
        if len(tries) < 5:
            raise ConfigError("the disk is full of xoxb-1-2-secret")
        return opened(tmp_path, slow)

    worker = Worker(open_teller)
    with caplog.at_level(logging.ERROR):
        worker.start()
        worker.tell([incident(opened=9e9)])
        becomes(lambda: len(slow.texts), 2)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    becomes(lambda: worker.state.state, "ok")
    worker.close(patience_s=10.0)


def test_files_of_a_bundle_are_read_as_far_as_is_needed(tmp_path: Path) -> None:
    (tmp_path / "stacks.txt").write_bytes(b"\xff" + b"x" * 1_000_000)
    texts = bundle_texts(str(tmp_path))
    assert list(texts) == ["stacks.txt"]
    assert len(texts["stacks.txt"]) == 1 << 16
    assert bundle_texts("") == bundle_texts(str(tmp_path / "nowhere")) == {}


def test_what_cannot_be_put_into_words_is_told_all_the_same_and_takes_nothing_with_it(
    tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as told from then on: nobody would come back to it."""
    real = rendering.render

    def render(saying: Saying, **how: Any) -> Outgoing:
        if isinstance(saying, Root) and saying.story.news.line.run == "odd":
            raise ValueError("no words")
        return real(saying, **how)

    monkeypatch.setattr(worker_module, "render", render)
    slow.go.set()
    teller = opened(tmp_path, slow)
    for run in ("odd", "even"):
        teller.hear(incident(run=run), NOON)
    while teller.turn(NOON, 0.0):
        pass
    assert "lossguard show odd.1" in str(slow.said)
    assert "even.1" in str(slow.said)
