"""Who of a run is there, how they are reached, and what got lost on the way."""

from __future__ import annotations

import numpy as np

from lossguard.agent.ranks_present import RanksPresent
from lossguard.probes import wire
from tests.support.probe import hello_of


class Post:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, wire.Message]] = []

    def send(self, identity: bytes, message: wire.Message) -> bool:
        """As a socket would."""
        self.sent.append((identity, message))
        return bool(identity)


def take(ranks: RanksPresent, number: int, sequence: int) -> None:
    """A step of a rank arrives."""
    rank = ranks.by_number[number]
    rank.lay_out(wire.Layout(run="run-a", rank=number, layout=0, names=["loss"]))
    header = wire.Step(
        run="run-a", rank=number, step=sequence, applied=sequence, layout=0, sequence=sequence,
        time_s=0.0,
    )  # fmt: skip
    assert rank.take(header, np.array([1.0], "<f4").tobytes()) is not None


def test_only_another_process_as_the_first_rank_begins_the_run_again() -> None:
    """Neither the same one by a new connection nor another process as another rank."""
    ranks = RanksPresent(hello_of(world_size=2, pid=10), Post().send)
    ranks.greet(b"a", hello_of(world_size=2, pid=10), 0.0)
    assert not ranks.is_another_process(hello_of(world_size=2, pid=10))
    assert not ranks.is_another_process(hello_of(world_size=2, rank=1, pid=11))
    assert ranks.is_another_process(hello_of(world_size=2, pid=12))


def test_a_word_to_all_goes_to_each_that_is_there() -> None:
    """And one to a rank that is not there goes nowhere, which is said."""
    post = Post()
    ranks = RanksPresent(hello_of(world_size=2), post.send)
    ranks.greet(b"a", hello_of(world_size=2), 0.0)
    ranks.greet(b"b", hello_of(world_size=2, rank=1), 0.0)
    word = wire.Resend(run="run-a")
    ranks.send_all(word)
    assert post.sent == [(b"a", word), (b"b", word)]
    assert not ranks.send(7, word)


def test_what_got_lost_outlives_the_rank_and_the_agent() -> None:
    """And a goodbye of a rank that is not there changes nothing."""
    ranks = RanksPresent(hello_of(), Post().send)
    ranks.greet(b"a", hello_of(), 0.0)
    take(ranks, 0, 1)
    take(ranks, 0, 4)
    assert (ranks.dropped, ranks.state()["sequence"]) == (2, 4)
    farewell = wire.Bye(run="run-a", rank=0, step=4, reason="finished")
    assert [ranks.leave(farewell), ranks.leave(farewell)] == [True, False]
    assert ranks.dropped == 2
    after = RanksPresent(hello_of(), Post().send)
    after.restore({**ranks.state()})
    assert after.dropped == 2


def test_a_rank_unknown_to_a_new_agent_has_lost_nothing_by_its_restart() -> None:
    """How far it had come is not known; of a run that is new, all before its first step is lost."""
    lost = []
    for is_restored in (True, False):
        ranks = RanksPresent(hello_of(), Post().send)
        if is_restored:
            ranks.restore({})
        ranks.greet(b"a", hello_of(), 0.0)
        take(ranks, 0, 10)
        lost.append(ranks.dropped)
    assert lost == [0, 9]
