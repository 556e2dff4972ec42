"""Small pieces of large tensors: views or small copies, evenly spread, nothing read by the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def is_measurable(value: Any) -> bool:
    """Whether it is a tensor with values of its own that every kernel takes.

    Not a sparse, nested, distributed or mapped one (``torch.func``), and none on ``meta``.
    """
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.numel() > 0
        and value.device.type != "meta"
        and (value.dtype in FLOATS or value.dtype in INTEGERS)
        and not hasattr(value, "to_local")
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def flat_view(tensor: Tensor) -> Tensor | None:
    """All elements in one dimension, in the order of memory; None where that needs a copy."""
    if not tensor.is_contiguous():
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        tensor = tensor.permute(order)
        if not tensor.is_contiguous():
            return None
    return tensor.view(-1)


def every(sizes: Sequence[int], limit: int) -> tuple[int, ...]:
    """One step a dimension; together they leave at most ``limit`` elements, evenly spaced.

    The largest dimension is thinned out first. Steps are odd, as patterns in data are not.

    >>> every((8, 1024), 256)
    (1, 33)
    """
    kept = list(sizes)
    while math.prod(kept) > limit:
        largest = max(range(len(kept)), key=kept.__getitem__)
        kept[largest] = -(-kept[largest] // 2)
    steps = [-(-size // max(1, number)) for size, number in zip(sizes, kept, strict=True)]
    return tuple(max(1, step) | 1 for step in steps)


def by_steps(tensor: Tensor, steps: Sequence[int]) -> Tensor:
    """Every so many elements of each dimension: a view."""
    for dim, step in enumerate(steps):
        if step > 1:
            tensor = torch.ops.aten.slice(tensor, dim, None, None, step)
    return tensor


def thinned(tensor: Tensor, limit: int) -> Tensor:
    """At most ``limit`` of the elements, evenly spread in every dimension: a view."""
    return by_steps(tensor, every(tensor.shape, limit))


def sample(tensor: Tensor, limit: int) -> Tensor:
    """At most ``limit`` of the elements, shape ``(n,)``: a view where the elements lie densely.

    The stride has no factor in common with the size of any dimension, so every row and column
    has its part.
    """
    flat = flat_view(tensor)
    if flat is None:
        flat = thinned(tensor, limit).reshape(-1)
    count = flat.numel()
    if count <= limit:
        return flat
    step = -(-count // limit)
    while math.gcd(step, count) > 1:
        step += 1
    return flat[::step]
