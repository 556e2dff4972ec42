"""What ranks can take up together, by what each sees on its disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from torch import distributed

from lossguard.errors import LossguardError
from lossguard.probes import agreeing
from lossguard.probes.agreeing import ByStore
from lossguard.probes.left_behind import Left, candidates


def left(rank: int, *steps: int, run: str = "a", size: int = 2, written_s: float = 1.0) -> Left:
    return Left(run, size, rank, written_s, list(steps), f"{run}.rank{rank}")


def steps_of(said: Sequence[Sequence[Left]]) -> list[int]:
    return [one.step for one in candidates(said)]


def test_as_many_ranks_take_what_each_has_of_its_own() -> None:
    """On disks of their own; only steps that all have, the newest first."""
    said = [[left(0, 10, 20, 30)], [left(1, 10, 20)]]
    assert steps_of(said) == [20, 10]
    assert candidates(said)[0].folders == ("a.rank0", "a.rank1")


def test_other_numbers_of_ranks_have_to_see_all() -> None:
    everything = [left(0, 10, 20), left(1, 10)]
    assert steps_of([everything] * 3) == [10]
    assert steps_of([everything]) == [10]
    assert steps_of([everything, [left(0, 10, 20)], everything]) == []


def test_a_rank_that_has_left_nothing_leaves_nothing_to_take_up() -> None:
    assert steps_of([[left(0, 10)], []]) == []
    assert steps_of([[], []]) == []


def test_the_run_that_was_written_last_comes_first() -> None:
    old, new = (
        [left(rank, 50, run="old", written_s=1.0), left(rank, 5, run="new", written_s=2.0)]
        for rank in range(2)
    )
    assert steps_of([old, new]) == [5, 50]


def test_all_ranks_hear_what_each_has_said() -> None:
    store: Any = distributed.HashStore()  # type: ignore[attr-defined]
    heard: dict[int, list[Sequence[str]]] = {}

    def meet(rank: int) -> None:
        peers = ByStore(store, "key", rank, 3)
        heard[rank] = [peers.exchange(f"{turn} of {rank}") for turn in range(2)]

    ranks = [threading.Thread(target=meet, args=(rank,)) for rank in range(3)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    expected = [[f"{turn} of {rank}" for rank in range(3)] for turn in range(2)]
    assert heard == dict.fromkeys(range(3), expected)


def test_a_rank_that_does_not_come_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agreeing, "PATIENCE_S", 0.1)
    store: Any = distributed.HashStore()  # type: ignore[attr-defined]
    with pytest.raises(LossguardError, match=r"every rank has to call guard\.resume\(\), or none"):
        ByStore(store, "key", 0, 2).exchange("here")
