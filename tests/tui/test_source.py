"""The live source against a real socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.agent import feed
from lossguard.home import Home, find_home
from lossguard.tui import source as source_module
from lossguard.tui.source import Answer, LiveSource
from tests.support.in_thread import InThread
from tests.support.router import router_at
from tests.support.waiting import PATIENCE_S, eventually
from tests.tui import pictures


class SmallAgent(InThread):
    """Answers subscriptions with small pictures until it is closed."""

    def __init__(self, home: Home, pid: int) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._home = home
        self._pid = pid

    def _work(self) -> None:
        with router_at(self._home.viewer_endpoint) as router:
            self._ready.set()
            viewers: dict[bytes, str] = {}
            while not self._stop.is_set():
                if router.poll(20):
                    viewer, frame = router.recv_multipart()
                    message = feed.decode_from_viewer(frame)
                    if isinstance(message, feed.Subscribe):
                        viewers[viewer] = message.run
                        self.asked.append(message.run)
                for viewer, run in viewers.items():
                    router.send_multipart([viewer, feed.encode(self._answer(run))])

    def _answer(self, run: str) -> feed.FeedMessage:
        if run == "nobody":
            return feed.Trouble(why="no run is called nobody")
        summary = pictures.run_summary(run or "newest")
        return feed.Picture(runs=[summary], run=summary.run, agent_pid=self._pid)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of its own for each test."""
    monkeypatch.setenv("LOSSGUARD_HOME", str(tmp_path))
    return find_home().create()


@pytest.fixture
def live(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveSource]:
    """A source that is quick to notice."""
    monkeypatch.setattr(source_module, "GONE_AFTER_S", 0.3)
    monkeypatch.setattr(source_module, "RETRY_S", 0.05)
    live = LiveSource(home=home)
    yield live
    live.close()


def pid_of(live: LiveSource) -> int:
    """The agent that the newest picture came from, or 0."""
    picture = live.latest().picture
    return picture.agent_pid if picture else 0


def test_pictures_arrive_and_another_run_can_be_asked_for(home: Home, live: LiveSource) -> None:
    """The newest picture is there at any time, and follows ``watch``."""
    with SmallAgent(home, 11):
        live.start()
        eventually(lambda: pid_of(live) == 11)
        assert not live.latest().gone
        live.want(feed.Subscribe(run="r-two"))
        eventually(lambda: (picture := live.latest().picture) and picture.run == "r-two")
        live.want(feed.Subscribe(run="nobody"))
        eventually(lambda: live.latest().trouble == "no run is called nobody")
        live.want(feed.Subscribe(run="r-two"))
        assert live.latest().trouble == ""


def test_the_source_waits_for_an_agent_that_is_not_there_yet(home: Home, live: LiveSource) -> None:
    """Without an agent nothing fails; once there is one, pictures come."""
    live.start()
    eventually(lambda: live.latest().gone)
    assert live.latest().picture is None
    with SmallAgent(home, 12):
        eventually(lambda: pid_of(live) == 12)


def test_an_agent_that_goes_away_is_noticed_and_found_again(home: Home, live: LiveSource) -> None:
    """The last picture stays, its age tells, and the next agent is subscribed to at once."""
    with SmallAgent(home, 21):
        live.start()
        live.want(feed.Subscribe(run="r-kept"))
        eventually(lambda: pid_of(live) == 21)
    eventually(lambda: live.latest().gone)
    assert pid_of(live) == 21
    with SmallAgent(home, 22) as second:
        eventually(lambda: pid_of(live) == 22)
        assert not live.latest().gone
        assert set(second.asked) == {"r-kept"}


def test_closing_twice_or_before_the_start_is_fine(home: Home) -> None:
    """Closing is idempotent."""
    unused = LiveSource(home=home)
    unused.close()
    used = LiveSource(home=home)
    used.start()
    used.start()
    used.close()
    used.close()


def test_the_screen_never_waits_for_the_agent(home: Home, live: LiveSource) -> None:
    """Every call of the screen's returns at once, with or without an agent."""
    live.start()
    began_s = time.monotonic()
    for number in range(200):
        live.want(feed.Subscribe(run=str(number)))
        live.latest()
    assert time.monotonic() - began_s < 0.5


class BusyAgent(InThread):
    """Hears orders and questions, and answers them from a script."""

    def __init__(self, home: Home, answers: list[feed.FeedMessage | None]) -> None:
        super().__init__()
        self.heard: list[feed.FromViewer] = []
        self._home = home
        self._answers = answers

    def _work(self) -> None:
        with router_at(self._home.viewer_endpoint) as router:
            self._ready.set()
            while not self._stop.is_set():
                if not router.poll(20):
                    continue
                viewer, frame = router.recv_multipart()
                message = feed.decode_from_viewer(frame)
                if isinstance(message, feed.Subscribe):
                    continue
                self.heard.append(message)
                answer = self._answers.pop(0) if self._answers else None
                if answer is not None:
                    router.send_multipart([viewer, feed.encode(answer)])


def heard_by(live: LiveSource, number: int) -> list[Answer]:
    """So many answers."""
    found: list[Answer] = []

    def look() -> bool:
        found.extend(live.answers())
        return len(found) >= number

    eventually(look)
    return found


ORDER = feed.SendCommand(run="r", command="top.1", action="skip")


def test_an_order_is_repeated_until_it_is_done_and_each_word_is_heard_once(
    home: Home, live: LiveSource
) -> None:
    """Lost on the way, pending, pending, done: with the same id, and no more after that."""
    pending = feed.CommandResult(command="top.1", status="pending")
    done = feed.CommandResult(command="top.1", status="done", step=7)
    story = feed.IncidentStory(incident="i-1", title="t")
    with BusyAgent(home, [None, pending, pending, done, story]) as agent:
        live.start()
        live.send(ORDER)
        assert heard_by(live, 2) == [pending, done]
        assert [one for one in agent.heard if one != ORDER] == []
        live.send(feed.TellIncident(run="r", incident="i-1"))
        assert heard_by(live, 1) == [story]
        assert len(agent.heard) == 5


def test_an_order_that_is_refused_is_not_repeated(home: Home, live: LiveSource) -> None:
    """And the refusal is not taken for trouble with the pictures."""
    refusal = feed.Trouble(why="the run is over", command="top.1")
    with BusyAgent(home, [refusal]):
        live.start()
        live.send(ORDER)
        assert heard_by(live, 1) == [refusal]
        assert live.latest().trouble == ""


def test_an_order_that_nobody_hears_is_given_up(
    home: Home, live: LiveSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not be carried out much later, when an agent is back."""
    monkeypatch.setattr(source_module, "GIVEN_UP_AFTER_S", 0.2)
    live.start()
    live.send(ORDER)
    (answer,) = heard_by(live, 1)
    assert isinstance(answer, feed.Trouble)
    assert answer.command == "top.1"
    monkeypatch.setattr(source_module, "GIVEN_UP_AFTER_S", PATIENCE_S)
    with BusyAgent(home, []) as agent:
        other = feed.SendCommand(run="r", command="top.2", action="skip")
        live.send(other)
        eventually(lambda: agent.heard)
        assert ORDER not in agent.heard
