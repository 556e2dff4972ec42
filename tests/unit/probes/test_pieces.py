"""Small pieces of large tensors: bounded, evenly spread, views wherever that can be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossguard.probes.pieces import (
    by_steps,
    every,
    flat_view,
    is_measurable,
    sample,
    some_rows,
    thinned,
)

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, limit=st.integers(1, 500))
def test_slices_leave_no_more_than_the_limit(sizes: list[int], limit: int) -> None:
    """And all where all fit."""
    left = by_steps(torch.empty(sizes), every(sizes, limit)).numel()
    assert 1 <= left <= limit
    if math.prod(sizes) <= limit:
        assert left == math.prod(sizes)


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, limit=st.integers(1, 500), turned=st.booleans(), cut=st.booleans())
def test_a_sample_is_some_of_the_elements_each_once(
    sizes: list[int], limit: int, turned: bool, cut: bool
) -> None:
    """Of dense tensors in any order of memory, and of slices of larger ones."""
    tensor = torch.arange(math.prod(sizes)).reshape(sizes)
    if turned:
        tensor = tensor.transpose(0, -1)
    if cut:
        tensor = tensor[..., :-1] if tensor.shape[-1] > 1 else tensor
    values = sample(tensor, limit)
    assert values.dim() == 1
    assert 1 <= len(values) <= limit
    assert len(set(values.tolist())) == len(values)
    assert set(values.tolist()) <= set(tensor.flatten().tolist())
    if tensor.numel() <= limit:
        assert len(values) == tensor.numel()


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, limit=st.integers(1, 500))
def test_of_a_large_tensor_whole_rows_are_taken(sizes: list[int], limit: int) -> None:
    """As long as one fits."""
    tensor = torch.arange(math.prod(sizes)).reshape(sizes)
    rows = some_rows(tensor, limit)
    assert 1 <= rows.numel() <= limit or rows.numel() == 1
    assert rows.data_ptr() == tensor.data_ptr(), "a view"
    if sizes[-1] <= limit:
        assert rows.shape[-1] == sizes[-1]
    if math.prod(sizes) <= limit:
        assert rows.shape == tensor.shape


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_a_sample_sees_every_channel(memory: str) -> None:
    """Where a stride that divides the number of channels would see one alone."""
    images = torch.arange(8.0).reshape(1, 8, 1, 1).expand(16, 8, 16, 16).contiguous()
    if memory == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    values = sample(images, 512)
    assert values.data_ptr() == images.data_ptr(), "a view"
    shares = [(values == channel).float().mean() for channel in range(8)]
    assert all(abs(share - 1 / 8) < 0.02 for share in shares)


def test_a_flat_view_shares_memory_or_is_none() -> None:
    """A part of a larger tensor has none."""
    matrix = torch.arange(12).reshape(3, 4)
    for dense in (matrix, matrix.t(), matrix[:2], matrix[1]):
        flat = flat_view(dense)
        assert flat is not None
        assert flat.data_ptr() == dense.data_ptr()
    assert flat_view(matrix[:, :3]) is None
    assert flat_view(torch.ones(1).expand(5)) is None


@pytest.mark.parametrize("shape", [(64, 512), (12, 40, 40), (100_000,), (50_000, 768)])
def test_large_tensors_are_thinned_in_every_dimension(shape: tuple[int, ...]) -> None:
    """To a good part of the limit, with both ends of each dimension in it: a view."""
    tensor = torch.empty(shape, dtype=torch.int8)
    some = thinned(tensor, 256)
    assert 60 <= some.numel() <= 256
    assert some.data_ptr() == tensor.data_ptr()
    for kept, size, stride, whole in zip(
        some.shape, shape, some.stride(), tensor.stride(), strict=True
    ):
        assert kept > 1
        assert kept * (stride // whole) > 0.9 * size
    assert thinned(tensor, 10**9) is tensor
    assert torch.equal(by_steps(torch.arange(12).reshape(3, 4), (3, 2)), torch.tensor([[0, 2]]))


def test_only_plain_tensors_with_values_are_measurable() -> None:
    """Not sparse, nested, mapped, empty, on ``meta``, complex, boolean; not what is no tensor."""
    good: list[Tensor] = [torch.ones(2), torch.ones(2).bfloat16(), torch.ones(2).long()]
    assert all(is_measurable(tensor) for tensor in good)
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(is_measurable(x))
        return x

    torch.vmap(look)(torch.ones(2, 2))
    bad = [
        torch.ones(2).to_sparse(), torch.ones(0), torch.ones(2, device="meta"),
        torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.bool), 3, "x", None,
    ]  # fmt: skip
    assert not any(is_measurable(thing) for thing in bad)
    assert seen == [False]
