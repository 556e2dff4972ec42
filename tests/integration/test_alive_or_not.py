"""Which runs go on, which are silent, which are dead; and what viewers see of it."""

from __future__ import annotations

import subprocess
import sys
import time

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.probes import wire
from tests.support.agents import AgentProcess
from tests.support.probe import FakeProbe, hello_of
from tests.support.waiting import eventually


def test_silence_and_death_are_told_apart(agent: AgentProcess) -> None:
    """A process that is gone is ``died``; one that says nothing is ``silent``, until it does."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    with (
        FakeProbe(agent.home, hello_of("run-quiet")) as quiet,
        FakeProbe(agent.home, hello_of("run-gone", pid=gone.pid)) as dead,
    ):
        quiet.join()
        dead.join()
        gone.wait()
        eventually(lambda: agent.runs()["run-gone"].state == "died")
        eventually(lambda: agent.runs()["run-quiet"].state == "silent")
        quiet.send_step(2.0)
        eventually(lambda: agent.runs()["run-quiet"].state == "running")


def test_another_process_of_the_same_id_begins_anew(agent: AgentProcess) -> None:
    """Steps that begin at the first again are neither ignored nor mixed with the old ones."""
    with FakeProbe(agent.home, hello_of(pid=1)) as first:
        first.join()
        for _ in range(50):
            first.send_step(2.0)
        agent.await_run(lambda r: r.step == 50)
    with FakeProbe(agent.home, hello_of()) as second:
        second.join()
        second.send_step(1.5)
        run = agent.await_run(lambda r: r.step == 1)
    assert (run.last, run.state) == ({"loss": 1.5}, "running")


def test_a_viewer_gets_whole_pictures_and_not_too_many(agent: AgentProcess) -> None:
    """At most one in a quarter of a second, however much happens and however often it asks."""
    with FakeProbe(agent.home, hello_of()) as probe, Client(agent.home) as viewer:
        probe.join()
        eventually(lambda: viewer.send(feed.Subscribe(run="tiny")))
        times: list[float] = []
        pictures: list[feed.Picture] = []
        while len(pictures) < 6:
            probe.send_step(2.0)
            viewer.send(feed.Subscribe(run="tiny"))
            message = viewer.receive(0.02)
            if isinstance(message, feed.Picture):
                times.append(time.monotonic())
                pictures.append(message)
    assert times[-1] - times[0] >= 5 * 0.2
    last = pictures[-1]
    assert last.run == "run-a"
    assert [series.metric for series in last.series] == ["loss"]
    assert len(last.series[0].steps) // 8 == last.runs[0].step


def test_a_viewer_is_told_that_the_agent_is_there_when_there_is_no_news(
    agent: AgentProcess,
) -> None:
    """A run that is over changes no more; pictures of it go on all the same."""
    with FakeProbe(agent.home, hello_of()) as probe, Client(agent.home) as viewer:
        probe.join()
        probe.bye("finished")
        agent.await_run(lambda r: r.state == "finished")
        eventually(lambda: viewer.send(feed.Subscribe(run="tiny")))
        pictures = [eventually(lambda: viewer.receive(0.1)) for _ in range(3)]
    assert {p.runs[0].state for p in pictures if isinstance(p, feed.Picture)} == {"finished"}


def test_a_viewer_of_a_run_that_is_not_there_sees_the_list(agent: AgentProcess) -> None:
    """A name nobody has is no error: the run may come."""
    with FakeProbe(agent.home, hello_of()) as probe, Client(agent.home) as viewer:
        probe.join()
        eventually(lambda: viewer.send(feed.Subscribe(run="nobody")))
        picture = eventually(lambda: viewer.receive(0.1))
        assert isinstance(picture, feed.Picture)
        assert (picture.run, [run.run for run in picture.runs]) == ("", ["run-a"])
        assert isinstance(viewer.request(feed.ListIncidents(run="nobody")), feed.Trouble)


def test_limits_are_streamed_to_a_guarded_run_and_not_to_an_observed_one(
    agent: AgentProcess,
) -> None:
    """Only who may act gets something to act on."""
    with (
        FakeProbe(agent.home, hello_of("run-guard")) as guarded,
        FakeProbe(agent.home, hello_of("run-watch", policy="observe")) as watched,
    ):
        for probe in (guarded, watched):
            probe.join()
            for i in range(100):
                probe.send_step(2.0 + 0.01 * (i % 3))
        eventually(lambda: guarded.await_message(wire.Limits).loss)
        eventually(lambda: agent.runs()["run-watch"].step == 100)
        watched.beat()
        watched.await_message(wire.Welcome)
        assert not [m for m in watched.heard if isinstance(m, wire.Limits)]
