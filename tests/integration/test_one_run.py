"""A run, from its hello to its end, over real sockets."""

from __future__ import annotations

import math
import random
import sqlite3
from contextlib import closing
from typing import Literal

from lossguard.agent import feed
from lossguard.probes import wire
from tests.support.agents import AgentProcess
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.support.waiting import eventually


def spike(probe: FakeProbe, calm: int = 80) -> wire.Command:
    """A healthy start and then losses far too high; the order this leads to."""
    for loss in healthy_losses(calm):
        probe.send_step(loss)
    for _ in range(3):
        probe.send_step(30.0)
    return probe.await_message(wire.Command)


def test_a_run_appears_in_the_list_with_its_last_values(agent: AgentProcess) -> None:
    """What a probe measures is in the run list, by name."""
    with FakeProbe(agent.home, hello_of(), names=("loss", "grad_norm")) as probe:
        probe.join()
        probe.send_step(2.5, 1.25)
        run = agent.await_run(lambda r: r.step == 1)
    assert run.last == {"loss": 2.5, "grad_norm": 1.25}
    assert (run.name, run.state, run.policy, run.world_size) == ("tiny", "running", "guard", 1)


def test_a_spike_becomes_one_incident_and_one_rollback_to_before_its_onset(
    agent: AgentProcess,
) -> None:
    """Losses that leap lead to one incident, one order, and the answer is its action."""
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        command = spike(probe)
        assert (command.action, command.args["onset"]) == ("rollback", 81)
        assert command.expires_step >= probe.step
        for _ in range(2):  # the answer is repeated, its effect is not
            probe.ack(command, restored_step=70, exactness="exact")
        eventually(lambda: agent.incidents()[0].actions)
        (line,) = agent.incidents()
        assert [(a.action, a.result) for a in line.actions] == [
            ("rollback", "done: restored_step 70, exactness exact")
        ]
        assert (line.symptom, line.severity, line.onset_step) == ("loss_spike", "critical", 81)
        probe.beat()
        summary = eventually(agent.run)
    assert (summary.incidents, summary.actions) == (1, 1)


def test_the_bound_that_belongs_to_a_rollback_is_there_before_it(agent: AgentProcess) -> None:
    """What is bad must not reach the state that is restored; the losses alone would let it pass."""
    noise = random.Random(1)
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        for _ in range(80):
            probe.send_step(0.1 * math.exp(0.5 * noise.gauss(0.0, 1.0)))
        for _ in range(3):
            probe.send_step(10.0)
        command = probe.await_message(wire.Command)
        before = probe.heard[: probe.heard.index(command)]
    bounds = [m.loss for m in before if isinstance(m, wire.Limits) and m.loss is not None]
    assert max(bounds) > 10.0
    assert 0.5 < bounds[-1] < 2.0


def test_a_command_is_sent_again_until_it_is_answered_and_not_after(agent: AgentProcess) -> None:
    """The same id comes again about once a second, and no more once the answer is there."""
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        first = spike(probe)
        assert probe.await_message(wire.Command) == first
        probe.ack(first, restored_step=70)
        eventually(lambda: agent.incidents()[0].actions)
        known = len(probe.commands())
        for _ in range(3):  # as many heartbeats are answered as it would take to come again
            probe.beat()
            probe.await_message(wire.Welcome)
        assert len(probe.commands()) == known


def test_an_unknown_rank_is_asked_who_it_is_and_its_data_then_arrives(agent: AgentProcess) -> None:
    """A step out of the blue is answered with Resend; after hello and layout, steps count."""
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.send_step(1.0)
        probe.await_message(wire.Resend)
        probe.join()
        probe.send_step(2.0)
        run = eventually(agent.run)
        run = agent.await_run(lambda r: r.step == 2)
    assert run.last == {"loss": 2.0}


def test_gaps_in_the_sequence_are_counted_and_stay_counted_after_the_end(
    agent: AgentProcess,
) -> None:
    """What was measured and never arrived is in ``dropped``, exactly."""
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        probe.send_step(1.0)
        probe.send_step(1.0, lost=3)
        probe.send_step(1.0, payload=b"abc")  # arrives, but cannot be read
        probe.send_step(1.0, lost=2)
        agent.await_run(lambda r: r.dropped == 6)
        probe.bye()
        run = agent.await_run(lambda r: r.state == "finished")
    assert run.dropped == 6


def test_a_run_that_says_goodbye_is_over_in_the_way_it_said(agent: AgentProcess) -> None:
    """Finished, failed and stopped are told apart, and a repeated goodbye changes nothing."""
    ends: list[tuple[Literal["finished", "exception", "stopped"], str]] = [
        ("finished", "finished"), ("exception", "failed"), ("stopped", "stopped"),
    ]  # fmt: skip
    for reason, state in ends:
        with FakeProbe(agent.home, hello_of(f"run-{reason}")) as probe:
            probe.join()
            probe.bye(reason)
            probe.bye()
            run = agent.await_run(lambda r: r.state != "running", f"run-{reason}")
            assert run.state == state


def test_the_last_goodbye_of_many_ranks_does_not_rename_the_end(agent: AgentProcess) -> None:
    """Rank 0 failed; that rank 1 then closed in good order does not make it a success."""
    with (
        FakeProbe(agent.home, hello_of(world_size=2)) as first,
        FakeProbe(agent.home, hello_of(world_size=2, rank=1)) as second,
    ):
        first.join()
        second.join()
        first.bye("exception")
        agent.await_run(lambda r: r.state == "failed")
        second.bye("finished")
        second.beat()
        second.await_message(wire.Resend)
    assert (run := agent.run())
    assert run.state == "failed"


def test_a_command_by_hand_is_answered_even_if_the_run_ends_with_it(agent: AgentProcess) -> None:
    """The answer to "stop" is to be had after the run that gave it is over."""
    send = feed.SendCommand(run="run-a", command="hand.1", action="stop")
    with FakeProbe(agent.home, hello_of(policy="observe")) as probe:
        probe.join()
        pending = agent.ask(send)
        assert isinstance(pending, feed.CommandResult)
        assert pending.status == "pending"
        probe.ack(probe.await_message(wire.Command), stopped_after_step=0)
        probe.bye("stopped")
        agent.await_run(lambda r: r.state == "stopped")
    done = agent.ask(send)
    assert isinstance(done, feed.CommandResult)
    assert (done.status, done.result) == ("done", "stopped_after_step 0")
    refused = agent.ask(feed.SendCommand(run="run-a", command="hand.2", action="stop"))
    assert isinstance(refused, feed.Trouble)
    assert "over" in refused.why


def test_a_command_that_no_loop_would_take_is_refused_at_once(agent: AgentProcess) -> None:
    """A strange id, a giant argument, an unknown run: each is answered with what is wrong."""
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        wrong = [
            feed.SendCommand(run="run-a", command="../../etc", action="stop"),
            feed.SendCommand(run="run-a", command="x", action="stop", args={"a": "b" * 1_000_000}),
            feed.SendCommand(run="nobody", command="x", action="stop"),
        ]
        for message in wrong:
            assert isinstance(agent.ask(message), feed.Trouble)
        assert not probe.commands()


def test_what_was_ordered_and_never_answered_has_failed_when_the_run_ends(
    agent: AgentProcess,
) -> None:
    """Nobody waits for an answer that cannot come any more."""
    send = feed.SendCommand(run="run-a", command="hand.1", action="checkpoint")
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        agent.ask(send)
        probe.bye()
        agent.await_run(lambda r: r.state == "finished")
        answer = agent.ask(send)
    assert isinstance(answer, feed.CommandResult)
    assert (answer.status, answer.result) == ("failed", "the run ended before it could answer")


def test_an_order_reaches_a_run_with_the_longest_name(agent: AgentProcess) -> None:
    """A command's id stays within what probes take, however long the run's is."""
    with FakeProbe(agent.home, hello_of("n" * 64 + "-1121-013312-ab12")) as probe:
        probe.join()
        assert len(spike(probe).command) <= 80


def test_a_locked_database_stops_neither_judging_nor_ordering(agent: AgentProcess) -> None:
    """While somebody holds the file nothing can be written: the order comes all the same, the log
    says what is the matter, and once the file is free everything is written."""
    with FakeProbe(agent.home, hello_of()) as probe:
        probe.join()
        with closing(sqlite3.connect(agent.home.database_path)) as person:
            person.execute("BEGIN IMMEDIATE")
            command = spike(probe)
            probe.ack(command, restored_step=70)
            agent.await_run(lambda r: r.actions == 1)
            eventually(lambda: "cannot write to" in agent.log)
            person.rollback()
            eventually(lambda: "is written to again" in agent.log)
            eventually(lambda: person.execute("SELECT 1 FROM steps WHERE step = 83").fetchone())
            answers = person.execute("SELECT status FROM commands").fetchall()
    assert answers == [("done",)]
