"""Votes on a device that are not waited for, and a peer that does not come: without a device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lossguard.probes import nccl, vote_group
from lossguard.probes.vote_on_cuda import OnCuda
from tests.support.waiting import eventually
from tests.unit.probes.votes import in_memory

VOTES = torch.tensor([1.0, 0.0, 7.0], dtype=torch.float64)


class Device:
    """Where the ranks' collectives meet: each ends when all have come to it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.given: dict[int, list[Tensor]] = {}

    def ended(self, number: int) -> bool:
        """Whether all ranks have taken part."""
        return len(self.given.get(number, ())) == self.size


class OnDevice(nccl.Communicator):
    """One rank's; ``sums`` are there as soon as all have given theirs."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.number = 0
        self.aborted = threading.Event()
        self.failed = False

    def add_up(self, given: Tensor, sums: Tensor) -> None:
        """Of the ranks that were here before too: the test lets the last one look."""
        self.number += 1
        there = self.device.given.setdefault(self.number, [])
        there.append(given)
        if self.device.ended(self.number):
            sums.copy_(torch.stack(there).sum(0))
        elif self.number > 1:  # given up, it has in it what the others gave before
            sums.copy_(given + self.device.given[self.number - 1][0])

    def has_failed(self) -> bool:
        """As the test says."""
        return self.failed

    def abort(self) -> None:
        """Once."""
        assert not self.aborted.is_set()
        self.aborted.set()


class Moment:
    """An event: has come where the device stands behind it."""

    def __init__(self, communicator: OnDevice) -> None:
        self._communicator, self._on = communicator, communicator.device
        self._at = 0

    def record(self) -> None:
        """Behind what is queued."""
        self._at = self._communicator.number

    def query(self) -> bool:
        """Whether all votes queued before are over."""
        return all(self._on.ended(number) for number in range(1, self._at + 1))


class Ranks:
    """Two of them in one process."""

    def __init__(self) -> None:
        self.device = Device(2)
        self.on = [OnDevice(self.device), OnDevice(self.device)]
        self.ids: list[bytes] = []
        self.store = in_memory()
        self.groups: list[OnCuda] = [None, None]  # type: ignore[list-item]

    def form(self, patience_s: float) -> None:
        """Each in a thread, for one waits for the other."""

        def form(rank: int) -> None:
            def begin(unique: bytes, number: int, size: int) -> nccl.Communicator:
                assert (number, size) == (rank, 2)
                self.ids.append(unique)
                return self.on[rank]

            self.groups[rank] = OnCuda(
                self.store, rank, 2, patience_s=patience_s, begin=begin, make_id=lambda: b"us",
                event=lambda: Moment(self.on[rank]), record=lambda moment: moment.record(),
            )  # fmt: skip

        threads = [threading.Thread(target=form, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def vote(self, *ranks: int) -> Tensor:
        """The sums that the last of them sees."""
        for rank in ranks:
            votes = VOTES.clone()
            self.groups[rank].add_up(votes)
        return votes


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Patient ones."""
    ranks = Ranks()
    ranks.form(patience_s=1000.0)
    yield ranks
    for group in ranks.groups:
        group._under_way.clear()
        group.close()
    eventually(lambda: all(one.aborted.is_set() for one in ranks.on))


def is_over(group: OnCuda) -> bool:
    """Whether it takes part no more."""
    try:
        group.add_up(VOTES.clone())
    except RuntimeError:
        return True
    return False


def test_all_ranks_get_the_sums(ranks: Ranks) -> None:
    """By a communicator of theirs that rank 0 has named."""
    assert ranks.vote(0, 1).tolist() == [2.0, 0.0, 14.0]
    assert ranks.vote(1, 0).tolist() == [2.0, 0.0, 14.0]
    assert ranks.ids == [b"us", b"us"]
    assert not any(one.aborted.is_set() for one in ranks.on)


def test_what_is_not_whole_adds_up_to_zeros(ranks: Ranks) -> None:
    """Nobody objects, and nobody agrees to anything."""
    assert ranks.vote(0).tolist() == [0.0, 0.0, 0.0]
    ranks.vote(1)
    assert ranks.vote(0).tolist() == [0.0, 0.0, 0.0], "though the sums look like those before"


def test_one_that_leaves_is_not_waited_for(ranks: Ranks) -> None:
    """In the vote that it took part in last it counts; the one after that is given up at once, and
    both learn that the vote is over."""
    ranks.vote(0, 1)
    ranks.groups[1].close()
    ranks.vote(0)
    assert ranks.on[0].aborted.wait(60.0)
    assert ranks.on[1].aborted.wait(60.0)
    with pytest.raises(RuntimeError, match="takes part no more"):
        ranks.groups[0].add_up(VOTES.clone())


def test_one_that_leaves_ends_what_is_under_way_first(ranks: Ranks) -> None:
    """A vote that others may still act upon."""
    ranks.vote(1)
    ranks.groups[1].close()
    assert not ranks.on[1].aborted.wait(0.5)
    ranks.vote(0)
    assert ranks.on[1].aborted.wait(60.0)


def test_a_peer_that_is_gone_is_noticed(ranks: Ranks) -> None:
    """By NCCL, where it can tell."""
    ranks.vote(0)
    ranks.on[0].failed = True
    assert ranks.on[0].aborted.wait(60.0)
    with pytest.raises(RuntimeError, match="gone"):
        ranks.groups[0].add_up(VOTES.clone())


def test_one_that_does_not_come_is_waited_for_that_long_and_no_longer() -> None:
    """From when the device has come to the vote."""
    ranks = Ranks()
    ranks.form(patience_s=1.0)
    ranks.vote(0)
    assert ranks.on[0].aborted.wait(60.0)
    with pytest.raises(RuntimeError, match="did not come to the vote for 1 s"):
        ranks.groups[0].add_up(VOTES.clone())
    ranks.groups[1].close()
    assert ranks.on[1].aborted.wait(60.0)


def test_a_device_that_is_lost_ends_the_vote(ranks: Ranks) -> None:
    """Its events raise from then on."""

    def lost() -> Any:
        raise RuntimeError("device-side assert")

    ranks.vote(0)
    ranks.groups[0]._under_way[0].ended.query = lost
    assert ranks.on[0].aborted.wait(60.0)
    assert is_over(ranks.groups[0])


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_ranks_where_there_is_no_nccl_do_not_vote(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nothing is asked of the other ranks then, and nobody waits."""

    def absent() -> Any:
        raise OSError("libnccl.so.2: no such file")

    monkeypatch.setenv(vote_group.ON_CUDA, "1")
    monkeypatch.setattr(nccl, "load", absent)
    with pytest.raises(vote_group.Unfit):
        vote_group.form(in_memory(), "key", 0, 2, torch.device(kind))
