"""The ranks' times and checksums beside the observations of rank 0: nothing waits for them."""

from __future__ import annotations

import pytest

from lossguard.agent.ranks_compared import RanksCompared
from lossguard.agent.ranks_whole import Cut, Cuts
from lossguard.detectors import Observation

WHOLE = Cuts({}, {})
CUT = Cuts({"grad_norm": [Cut((0, 1), ())]}, {})  # type: ignore[arg-type]


def observed(step: int, **values: float) -> Observation:
    """A step of 0.5 s, unless said otherwise."""
    return Observation(step, {"step_time": 0.5, **values})


def family(observation: Observation, name: str) -> list[object]:
    """By rank; None is missing."""
    found = observation.families[name]
    assert found.names == tuple(str(rank) for rank in range(len(found.values)))
    values = zip(found.values.tolist(), found.missing.tolist(), strict=True)
    return [None if gone else pytest.approx(value) for value, gone in values]


def test_what_a_rank_waits_for_others_is_not_its_own_time() -> None:
    """The backward; evaluation and saving are no part of the step either."""
    ranks = RanksCompared(3)
    ranks.note(1, WHOLE, observed(1, backward_time=0.1, forward_time=0.2, data_wait=0.3))
    ranks.note(2, WHOLE, observed(1, backward_time=0.1, eval_time=0.2, checkpoint_time=0.1))
    first = observed(1, backward_time=0.4, loss=2.0)
    ranks.note(0, WHOLE, first)
    found = ranks.beside(first)
    assert family(found, "rank_step_time") == [0.5, 0.5, 0.5]
    assert family(found, "rank_own_time") == [0.1, 0.4, 0.1]
    assert family(found, "rank_data_time") == [None, 0.3, None]
    assert "rank_checksum" not in found.families
    assert found.values == first.values


def test_where_weights_are_cut_the_forward_waits_too() -> None:
    """It collects them from the others."""
    ranks = RanksCompared(2)
    ranks.note(1, CUT, observed(1, backward_time=0.1, forward_time=0.2, data_wait=0.3))
    ranks.note(0, CUT, observed(1, backward_time=0.1, forward_time=0.3))
    assert family(ranks.beside(observed(1)), "rank_own_time") == [0.1, 0.2]


def test_of_two_ranks_on_devices_nobody_knows_who_waits() -> None:
    """Hosts wait for their devices anywhere; a wait for data is one all the same."""
    ranks = RanksCompared(2)
    for step in (1, 2):
        for rank in (0, 1):
            ranks.note(rank, WHOLE, observed(step, data_wait=0.1, memory_total=8e10))
    ranks.beside(observed(1))
    found = ranks.beside(observed(2))
    assert "rank_own_time" not in found.families
    assert family(found, "rank_data_time") == [0.1, 0.1]


def test_checksums_go_by_rank_and_not_by_value() -> None:
    """The number of one rank says nothing alone."""
    ranks = RanksCompared(2)
    ranks.note(0, WHOLE, observed(16, weight_checksum=16_777_212.0))
    ranks.note(1, WHOLE, observed(16, weight_checksum=16_777_211.0))
    found = ranks.beside(observed(16, weight_checksum=16_777_212.0))
    assert found.values["rank_lag"] == 0.0
    assert found.families["rank_checksum"].values.tolist() == [16_777_212.0, 16_777_211.0]
    assert "weight_checksum" not in found.values


def test_a_step_that_rank_0_tells_of_first_comes_with_its_next() -> None:
    """In order, and none is left out."""
    ranks = RanksCompared(2)
    for step in (1, 2, 3):
        ranks.note(0, WHOLE, observed(step))
        assert ranks.beside(observed(step)).families == {}
    for step in (1, 2, 3):
        ranks.note(1, WHOLE, observed(step, data_wait=step / 10))
    for step in (4, 5, 6):
        ranks.note(0, WHOLE, observed(step))
        found = ranks.beside(observed(step))
        assert family(found, "rank_data_time") == [None, pytest.approx((step - 3) / 10)]
        assert "rank_lag" not in found.values


def test_a_checksum_overtakes_the_times_of_earlier_steps() -> None:
    """And says by how many steps it is late."""
    ranks = RanksCompared(2)
    for rank in (0, 1):
        for step in range(1, 16):
            ranks.note(rank, WHOLE, observed(step))
        ranks.note(rank, WHOLE, observed(16, weight_checksum=7.0))
    found = ranks.beside(observed(18))
    assert family(found, "rank_checksum") == [7.0, 7.0]
    assert found.values["rank_lag"] == 2.0
    assert "rank_checksum" not in ranks.beside(observed(19)).families


def test_a_rank_that_has_left_is_not_waited_for() -> None:
    """Two of three go on."""
    ranks = RanksCompared(3)
    ranks.leave(2)
    ranks.note(0, WHOLE, observed(1))
    ranks.note(1, WHOLE, observed(1))
    assert family(ranks.beside(observed(1)), "rank_step_time") == [0.5, 0.5, None]


def test_a_step_that_a_rank_has_lost_comes_without_it() -> None:
    """A later one of that rank says so."""
    ranks = RanksCompared(2)
    for step in (1, 2):
        ranks.note(0, WHOLE, observed(step))
    ranks.note(1, WHOLE, observed(2))
    found = ranks.beside(observed(2))
    assert family(found, "rank_step_time") == [0.5, 0.5]
    assert ranks.beside(observed(3)).families == {}


def test_a_silent_rank_is_missing_and_memory_is_bounded() -> None:
    """The others are compared 64 steps later; of one that is alone there is nothing to compare."""
    three, alone = RanksCompared(3), RanksCompared(2)
    found = []
    for step in range(1, 200):
        for rank in (0, 1):
            three.note(rank, WHOLE, observed(step))
        found.append(three.beside(observed(step)))
        alone.note(0, WHOLE, observed(step))
        assert alone.beside(observed(step)).families == {}
    assert len(three._open) <= 64
    assert len(alone._open) <= 64
    assert family(found[-1], "rank_step_time") == [0.5, 0.5, None]
    assert next(i for i, one in enumerate(found, start=1) if one.families) == 65


def test_what_comes_after_the_last_step_is_no_step() -> None:
    """An evaluation at the end has the number of a step, and no time."""
    ranks = RanksCompared(2)
    ranks.note(0, WHOLE, observed(5))
    ranks.note(0, WHOLE, Observation(5, {"val_loss": 1.0}))
    assert ranks.beside(observed(5)).families == {}
