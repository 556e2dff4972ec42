"""Orders to several ranks: each gets them, and they are done when all have done them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lossguard.agent.commands import REPEAT_AFTER_S, Commands, Outstanding
from lossguard.agent.store import Store
from lossguard.probes import wire


class Ranks:
    """Those that are there, and what they were sent."""

    def __init__(self, store: Store) -> None:
        self.there = [0, 1]
        self.sent: list[tuple[int, str]] = []
        self.store = store
        self.commands = Commands("r", store, self._send, lambda: self.there)

    def _send(self, rank: int, command: wire.Command) -> bool:
        self.sent.append((rank, command.command))
        return True

    def give(self, name: str = "c", now: float = 0.0) -> None:
        """An order."""
        self.commands.give(name, "rollback", {}, incident="", step=7, now=now)

    def answer(
        self, rank: int, status: Any = "done", **result: Any
    ) -> tuple[Outstanding, wire.Ack] | None:
        """By one of them."""
        ack = wire.Ack(run="r", rank=rank, command="c", status=status, step=9, result=result)
        return self.commands.answered(ack)

    def status(self) -> str:
        """As the store knows it."""
        answer = self.store.command("c")
        assert answer is not None
        return answer.status


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    """Two of them."""
    store = Store(tmp_path / "s.db")
    yield Ranks(store)
    store.close()


def test_an_order_goes_to_every_rank_until_that_rank_has_answered(ranks: Ranks) -> None:
    """And not again to one that has."""
    ranks.give()
    assert ranks.sent == [(0, "c"), (1, "c")]
    assert ranks.answer(1) is None
    ranks.commands.repeat(REPEAT_AFTER_S)
    assert ranks.sent[2:] == [(0, "c")]


def test_it_is_done_when_all_have_done_it(ranks: Ranks) -> None:
    """The answer is the first rank's, whoever answers last, and is given once."""
    ranks.give()
    assert ranks.answer(0, restored_step=4) is None
    assert ranks.status() == "pending"
    joined = ranks.answer(1, restored_step=4)
    assert joined is not None
    assert (joined[1].rank, joined[1].status, joined[1].result) == (0, "done", {"restored_step": 4})
    assert ranks.status() == "done"
    assert ranks.answer(1) is None


def test_one_that_failed_makes_it_fail_and_is_named(ranks: Ranks) -> None:
    """Why is that rank's; what all say alike is said without a number."""
    ranks.give()
    ranks.answer(0)
    joined = ranks.answer(1, "failed", why="out of memory")
    assert joined is not None
    assert (joined[1].status, joined[1].result) == ("failed", {"why": "rank 1: out of memory"})
    ranks.commands.give("d", "skip", {}, incident="", step=7, now=0.0)
    for rank in (0, 1):
        ack = wire.Ack(run="r", rank=rank, command="d", status="failed", step=9,
                       result={"why": "no vote"})  # fmt: skip
        joined = ranks.commands.answered(ack)
    assert joined is not None
    assert joined[1].result == {"why": "no vote"}


def test_a_rank_that_leaves_is_not_waited_for(ranks: Ranks) -> None:
    """What it had not answered is not done, for nobody knows."""
    ranks.give()
    ranks.answer(0)
    ranks.there = [0]
    ((_, ack),) = ranks.commands.without(1)
    assert ack.status == "failed"
    assert "rank 1: it ended" in str(ack.result["why"])
    assert ranks.status() == "failed"


def test_a_run_that_ends_with_its_order_has_carried_it_out(ranks: Ranks) -> None:
    """A stop: the first rank says goodbye before the other has answered. Without any answer nobody
    knows, and it has failed."""
    ranks.give()
    ranks.answer(0)
    ((_, ack),) = ranks.commands.give_up(9, "the run ended")
    assert (ack.status, ranks.status()) == ("done", "done")
    ranks.give("d")
    assert ranks.commands.give_up(9, "the run ended") == []
    answer = ranks.store.command("d")
    assert answer is not None
    assert answer.status == "failed"


def test_a_rank_that_has_not_come_yet_gets_what_is_open(ranks: Ranks) -> None:
    """It said hello later than the others."""
    ranks.there = [0]
    ranks.give()
    ranks.there = [0, 1]
    ranks.commands.repeat(REPEAT_AFTER_S)
    assert (1, "c") in ranks.sent
    ranks.answer(0)
    assert ranks.status() == "pending"


def test_orders_are_numbered_upwards(ranks: Ranks) -> None:
    """All ranks take them up in this order, also those of another agent after it."""
    numbers = []
    for name in ("a", "b"):
        ranks.give(name)
        numbers.append(ranks.commands._outstanding[name].command.number)
    again = Ranks(ranks.store)
    again.give("z")
    numbers.append(again.commands._outstanding["z"].command.number)
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0
