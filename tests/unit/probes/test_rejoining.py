"""Parts of a state that some ranks have left become the parts that other ranks want."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lossguard.probes.cut import Path, Place
from lossguard.probes.rejoining import Rejoined

AT: Path = ("model", "w")


def blocks(whole: Tensor, dim: int, count: int) -> list[tuple[Tensor, Place]]:
    """As ``Shard(dim)`` cuts it over so many ranks: the last ones may get less, or nothing."""
    size = -(-whole.shape[dim] // count)
    parts = []
    for rank in range(count):
        low, high = (min(k * size, whole.shape[dim]) for k in (rank, rank + 1))
        offset = [0] * whole.dim()
        offset[dim] = low
        part = whole.narrow(dim, low, high - low).clone()
        parts.append((part, (tuple(whole.shape), tuple(offset), tuple(part.shape))))
    return parts


def state(part: Tensor) -> dict[str, Any]:
    return {"model": {"w": part}, "groups": [{"lr": 0.5}]}


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    then=st.tuples(st.integers(0, 1), st.integers(1, 6)),
    now=st.tuples(st.integers(0, 1), st.integers(1, 6)),
)
def test_any_cut_becomes_any_other(
    shape: tuple[int, int], then: tuple[int, int], now: tuple[int, int]
) -> None:
    """To the last bit, whatever the two cuts are, and what is no tensor comes along."""
    whole = torch.arange(float(shape[0] * shape[1])).reshape(shape)
    left = blocks(whole, *then)
    for mine, place in blocks(whole, *now):
        joined = Rejoined(state(left[0][0]), {AT: left[0][1]}, lambda path, of: place)  # noqa: B023
        for part, its in left:
            joined.take(state(part), {AT: its})
        found = joined.whole()
        assert torch.equal(found["model"]["w"], mine)
        assert found["groups"] == [{"lr": 0.5}]


def test_what_several_ranks_hold_counts_once() -> None:
    """As a mesh with replicas leaves it."""
    left = blocks(torch.arange(6.0), 0, 2)
    joined = Rejoined(state(left[0][0]), {AT: left[0][1]}, lambda path, of: None)
    for part, place in [left[0], left[0], left[1], left[1]]:
        joined.take(state(part), {AT: place})
    assert torch.equal(joined.whole()["model"]["w"], torch.arange(6.0))


def test_a_part_that_is_missing_is_named() -> None:
    left = blocks(torch.arange(6.0), 0, 2)
    joined = Rejoined(state(left[0][0]), {AT: left[0][1]}, lambda path, of: None)
    joined.take(state(left[0][0]), {AT: left[0][1]})
    with pytest.raises(ValueError, match=r"a part of model\.w is missing"):
        joined.whole()


def test_a_tensor_that_has_another_shape_now_is_refused() -> None:
    (part, place), _ = blocks(torch.arange(6.0), 0, 2)
    other = ((8,), (0,), (4,))
    with pytest.raises(ValueError, match=r"model\.w had the shape \(6,\), and now has \(8,\)"):
        Rejoined(state(part), {AT: place}, lambda path, whole: other)


def test_what_is_whole_everywhere_is_taken_as_it_is() -> None:
    kept = state(torch.ones(3))
    assert Rejoined(kept, {}, lambda path, of: None).whole()["model"]["w"] is kept["model"]["w"]


def test_moments_that_the_first_rank_has_not_are_not_lost_in_silence() -> None:
    """A parameter had no gradient there yet; which, nobody can make up."""
    first: dict[str, Any] = {"optimizers": [{"state": [None]}]}
    other: dict[str, Any] = {"optimizers": [{"state": [{"exp_avg": torch.ones(2)}]}]}
    joined = Rejoined(first, {}, lambda path, of: None)
    joined.take(first, {})
    with pytest.raises(ValueError, match=r"optimizers\.0\.state\.0\.exp_avg was left by some"):
        joined.take(other, {})
