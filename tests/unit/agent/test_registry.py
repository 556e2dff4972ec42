"""Runs and their ranks, by a clock of the test's own and without sockets."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lossguard.agent import feed
from lossguard.agent.live import LiveRun
from lossguard.agent.process_table import ProcessTable
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.agent.viewers import Viewers
from lossguard.probes import wire
from tests.support.probe import hello_of
from tests.support.streams import healthy_losses


class Desk:
    """A registry and viewers that send into lists."""

    def __init__(self, store: Store) -> None:
        self.sent: list[tuple[bytes, wire.FromAgent]] = []
        self.shown: list[feed.FromAgent] = []
        self.reads = True
        self.store = store
        self.registry = Registry(store, self._to_probe)
        self.viewers = Viewers(self.registry, self._to_viewer, lambda: None)

    def _to_probe(self, identity: bytes, frame: bytes) -> bool:
        self.sent.append((identity, wire.decode_from_agent(frame)))
        return True

    def _to_viewer(self, identity: bytes, frame: bytes) -> bool:
        if self.reads:
            self.shown.append(feed.decode_from_agent(frame))
        return self.reads

    def join(self, hello: wire.Hello, *names: str) -> LiveRun:
        """A rank says hello and names its values."""
        layout = wire.Layout(run=hello.run, rank=hello.rank, layout=0, names=list(names))
        for message in (hello, layout):
            self.registry.take(b"probe", [wire.encode(message)])
        return self.registry.runs[hello.run]

    def step(self, number: int, *values: float, run: str = "run-a") -> None:
        """One step."""
        header = wire.Step(
            run=run, rank=0, step=number, applied=number, layout=0, sequence=number,
            time_s=float(number),
        )  # fmt: skip
        frames = [wire.encode(header), np.array(values, dtype="<f4").tobytes()]
        self.registry.take(b"probe", frames)

    def commands(self) -> list[wire.Command]:
        """Those that were sent."""
        return [message for _, message in self.sent if isinstance(message, wire.Command)]


@pytest.fixture
def desk(store: Store) -> Desk:
    """An empty one."""
    return Desk(store)


def test_a_failing_run_does_not_touch_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in one run's clockwork is said once; the next run's turn comes."""
    bad, good = desk.join(hello_of("bad"), "loss"), desk.join(hello_of("good"), "loss")

    def fail(now: float) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(bad, "tick", fail)
    later = time.monotonic() + 6.0
    for _ in range(10):
        desk.registry.tick(later)
    assert good.state == "silent"
    assert len([r for r in caplog.records if "run bad failed" in r.message]) == 1


def test_orders_are_given_while_the_disk_takes_nothing(desk: Desk) -> None:
    """A full disk stops neither judging nor ordering, and the order is given once."""
    desk.join(hello_of(), "loss")
    desk.store.commit()
    desk.store._db.execute("PRAGMA max_page_count = 1")
    for number, loss in enumerate([*healthy_losses(100), 30.0, 30.0, 30.0], start=1):
        desk.step(number, loss)
        desk.store.tick()
    assert [command.action for command in desk.commands()] == ["rollback"]
    assert desk.registry.runs["run-a"].run.incidents.open


def test_one_run_a_tick_is_saved_and_each_gets_its_turn(desk: Desk) -> None:
    """Many runs do not make the agent stand still all at once."""
    lives = [desk.join(hello_of(f"run-{i}"), "loss") for i in range(5)]
    now = time.monotonic() + 10.0
    saved = []
    for tick in range(6):
        desk.registry.tick(now + 0.25 * tick)
        saved.append(sum(live.saved_s >= now for live in lives))
    assert saved == [1, 2, 3, 4, 5, 5]


def test_saving_a_run_with_many_metrics_takes_little_time(desk: Desk) -> None:
    """All histories full, and the loop is not held up for long by keeping them."""
    live = desk.join(hello_of(), *[f"m{i}" for i in range(31)], "loss")
    for number in range(1, 4200):
        desk.step(number, *[float(number)] * 32)
    began = time.thread_time()
    live.save(time.monotonic(), force=True)
    desk.store.commit()
    assert time.thread_time() - began < 0.25


def test_a_live_process_taken_for_dead_is_alive_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that leapt made it look gone; its next word says otherwise."""
    live = desk.join(hello_of(started_s=1.0), "loss")
    desk.registry.tick(time.monotonic() + 6.0)
    assert live.state == "died"
    desk.step(1, 2.0)
    assert (live.state, live.is_over) == ("running", False)


def test_a_run_that_is_alive_again_is_looked_after_as_before(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is there, so silence is not its death."""
    live = desk.join(hello_of(), "loss")
    with monkeypatch.context() as mistaken:
        mistaken.setattr(ProcessTable, "state", lambda table: "gone")
        desk.registry.tick(time.monotonic() + 6.0)
    assert live.state == "died"
    desk.step(1, 2.0)
    desk.registry.tick(time.monotonic() + 6.0)
    assert (live.state, live.is_over) == ("silent", False)


def test_runs_are_found_by_id_then_name_then_prefix(desk: Desk) -> None:
    """The newest of several; nothing asked is the newest of all."""
    desk.join(hello_of("abc-1", name="other", started_s=3.0))
    desk.join(hello_of("xyz-1", name="abc", started_s=1.0))
    desk.join(hello_of("xyz-2", name="abc", started_s=2.0))
    found = {
        name: live.hello.run if (live := desk.registry.find(name)) else None
        for name in ("abc-1", "abc", "abc-", "xyz", "", "nobody")
    }
    assert found == {
        "abc-1": "abc-1", "abc": "xyz-2", "abc-": "abc-1", "xyz": "xyz-2", "": "abc-1",
        "nobody": None,
    }  # fmt: skip


def test_ended_runs_beyond_the_newest_200_are_forgotten(desk: Desk) -> None:
    """Also in the database; what goes on is never forgotten."""
    desk.join(hello_of("going", started_s=0.0))
    for i in range(210):
        name = f"run-{i}"
        desk.join(hello_of(name, started_s=float(i + 1)))
        bye = wire.Bye(run=name, rank=0, step=0, reason="finished")
        desk.registry.take(b"probe", [wire.encode(bye)])
    assert len(desk.registry.runs) <= 201
    assert "going" in desk.registry.runs
    assert "run-0" not in desk.registry.runs
    assert len(desk.store.runs(1000)) == len(desk.registry.runs)


def test_a_viewer_that_does_not_read_is_left_alone_for_a_while(desk: Desk) -> None:
    """Nothing is drawn for it over and over, and it gets a picture as soon as it reads."""
    desk.join(hello_of(), "loss")
    desk.viewers.take(b"viewer", [feed.encode(feed.Subscribe())])
    assert len(desk.shown) == 1
    now = time.monotonic() + 0.3
    desk.step(1, 2.0)
    desk.reads = False
    desk.viewers.tick(now)
    desk.reads = True
    desk.viewers.tick(now + 0.25)
    assert len(desk.shown) == 1
    desk.viewers.tick(now + 1.1)
    assert len(desk.shown) == 2
    desk.viewers.tick(now + 1.4)
    assert len(desk.shown) == 2  # nothing new happened


def test_a_subscription_that_is_not_renewed_ends(desk: Desk) -> None:
    """A viewer that went away is forgotten."""
    desk.join(hello_of(), "loss")
    desk.viewers.take(b"viewer", [feed.encode(feed.Subscribe())])
    desk.viewers.tick(time.monotonic() + feed.SUBSCRIPTION_S + 1.0)
    desk.step(1, 2.0)
    desk.viewers.tick(time.monotonic() + 1.0)
    assert len(desk.shown) == 1


def test_commands_to_a_process_that_was_replaced_are_given_up(desk: Desk) -> None:
    """A new process of the same id is not rolled back for what the old one did."""
    live = desk.join(hello_of(pid=1), "loss")
    live.command("hand.1", "stop", {})
    desk.join(hello_of(pid=2), "loss")
    desk.sent.clear()
    desk.registry.tick(time.monotonic() + 2.0)
    assert desk.commands() == []
    assert (answer := live.result_of("hand.1")) is not None
    assert (answer.status, answer.result) == ("failed", "the process was replaced by another one")
