"""Who holds whom."""

from __future__ import annotations

from lossguard.agent.holding import Stand, holders, in_words


def waiting(step: int = 7) -> Stand:
    """In an all_reduce."""
    return Stand(step, "collective", "distributed_c10d.py:1 in all_reduce")


def test_the_rank_that_loads_data_holds_those_in_a_collective() -> None:
    stands = {0: waiting(), 1: waiting(), 2: Stand(7, "data", "rows.py:3 in read"), 3: waiting()}
    assert holders(stands) == (2,)
    words = in_words(stands)
    assert words == "rank 2 is in data at rows.py:3 in read: ranks 0, 1 and 3 wait for it"


def test_of_ranks_that_all_wait_the_one_behind_holds_the_others() -> None:
    assert holders({0: waiting(8), 1: waiting(7), 2: waiting(8)}) == (1,)


def test_where_all_are_alike_nobody_is_blamed() -> None:
    stands = {0: waiting(), 1: waiting()}
    assert holders(stands) == ()
    assert in_words(stands).startswith("all 2 ranks stand still, rank 0 in collective")


def test_one_alone_holds_nobody() -> None:
    stands = {0: Stand(3, "script", "train.py:9 in loss")}
    assert holders(stands) == ()
    assert in_words(stands) == "in script at train.py:9 in loss"
