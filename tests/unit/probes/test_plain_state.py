"""Training state survives being written as plain values; what is no state is refused."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lossguard.probes.plain_state import NotPlain, NotReadable, put_together, take_apart

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def there_and_back(value: Any) -> Any:
    tree, blobs = take_apart(value)
    return put_together(tree, [bytes(blob) for blob in blobs])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)], ids=str)
def test_a_tensor_comes_back_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Of every dtype and shape, empty and 0-d ones included; and can be written to."""
    tensor = (torch.rand(shape) * 100).to(dtype)
    back = there_and_back({"t": tensor})["t"]
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    assert back.reshape(-1).view(torch.uint8).tolist() == (
        tensor.reshape(-1).view(torch.uint8).tolist()
    )
    back.zero_()


def test_a_view_is_written_as_what_it_shows() -> None:
    """Not as the memory behind it."""
    whole = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(there_and_back(whole.t()[1]), whole[:, 1])
    assert torch.equal(there_and_back(torch.ones(2, 2).conj()), torch.ones(2, 2))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner)
    | st.lists(inner).map(tuple)
    | st.lists(inner).map(deque)
    | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner),
    max_leaves=20,
)  # fmt: skip


@given(plain)
def test_plain_values_come_back_equal_and_of_their_type(value: Any) -> None:
    """However nested, with integers of any size and keys of any kind."""
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


def test_what_schedulers_and_generators_hold_comes_back() -> None:
    """A Counter of milestones, the states of Python's, NumPy's and torch's generators."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    state = there_and_back(scheduler.state_dict())
    assert state["milestones"] == Counter({3: 2, 5: 1})
    assert state["milestones"][4] == 0
    assert there_and_back(OrderedDict(a=1)) == {"a": 1}
    random.setstate(there_and_back(random.getstate()))
    np.random.set_state(there_and_back(np.random.get_state()))
    torch.set_rng_state(there_and_back(torch.get_rng_state()))
    assert type(there_and_back(np.float64(2.5))) is np.float64


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"extra": {"ema": object()}}, "extra.ema is a object"),
        ({"a": [1, lambda: 0]}, r"a\[1\] is a function"),
        (torch.ones(2).to_sparse(), "the state is a Tensor"),
        (np.array([object()]), "the state is a ndarray"),
        (torch.ones(1, device="meta"), "the state is a Tensor"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_place(value: Any, where: str) -> None:
    """Rather than written as code."""
    with pytest.raises(NotPlain, match=where):
        take_apart(value)


@pytest.mark.parametrize(
    "tree",
    [
        ["os.system", "true"],
        [],
        [["list", []]],
        ["tensor", "float32", [2], 0],
        ["tensor", "load", [1], 0],
        ["tensor", "float32", [1], 7],
        ["tensor", "float32", [-1, -1], 0],
        ["array", "|O", [1], 0],
        ["dict", [[["list", []], 1]]],
        ["list"],
    ],
    ids=str,
)
def test_a_tree_that_nobody_made_is_refused(tree: Any) -> None:
    """Nothing of it is looked up but dtypes, and sizes must agree with what is there."""
    with pytest.raises(NotReadable):
        put_together(tree, [b"\0" * 4])
