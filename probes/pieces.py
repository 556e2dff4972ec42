"""Small pieces of large tensors: views or small copies, evenly spread, nothing read by the host."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_MEASURED = frozenset((*FLOATS, *INTEGERS))
_is_mapped = torch._C._functorch.is_functorch_wrapped_tensor


def is_measurable(value: Any) -> bool:
    """Whether it is a tensor with values of its own that every kernel takes.

    Not a sparse, nested, distributed or mapped one (``torch.func``), and none on ``meta``.
    """
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.numel() > 0
        and not value.is_meta
        and value.dtype in _MEASURED
        # A look for what is not there is slow, and a plain tensor has none.
        and (type(value) is Tensor or not hasattr(value, "to_local"))
        and not _is_mapped(value)
    )


def absmax(tensor: Tensor) -> Tensor:
    """Largest absolute value, 0-d, of the same type; NaN where one is in it.

    One reduction. On the CPU torch's own for the infinity norm is thirty times slower than memory.
    """
    if tensor.is_cpu:
        low, high = torch.aminmax(tensor)
        return torch.maximum(-low, high)
    largest: Tensor = torch.linalg.vector_norm(tensor, float("inf"))
    return largest


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
    return _every(tuple(sizes), limit)


@functools.lru_cache(maxsize=4096)
def _every(sizes: tuple[int, ...], limit: int) -> tuple[int, ...]:
    kept = list(sizes)
    while math.prod(kept) > limit:
        largest = max(range(len(kept)), key=kept.__getitem__)
        kept[largest] = -(-kept[largest] // 2)
    steps = [-(-size // max(1, number)) for size, number in zip(sizes, kept, strict=True)]
    return tuple(max(1, step) | 1 for step in steps)


def by_steps(tensor: Tensor, steps: Sequence[int]) -> Tensor:
    """Every so many elements of each dimension: a view."""
    if max(steps, default=1) == 1:
        return tensor
    sizes = [-(-size // step) for size, step in zip(tensor.shape, steps, strict=True)]
    strides = [stride * step for stride, step in zip(tensor.stride(), steps, strict=True)]
    return tensor.as_strided(sizes, strides)


def thinned(tensor: Tensor, limit: int) -> Tensor:
    """At most ``limit`` of the elements, evenly spread in every dimension: a view."""
    return by_steps(tensor, every(tensor.shape, limit))


def some_rows(tensor: Tensor, limit: int) -> Tensor:
    """About ``limit`` of the elements at most: whole rows of the last dimension, evenly spread. A
    view, which is read as fast as memory goes."""
    if tensor.numel() <= limit:
        return tensor
    *rows, width = tensor.shape
    if width > limit:
        return thinned(tensor, limit)
    return by_steps(tensor, (*every(rows, limit // width), 1))


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
    step = _stride(count, limit)
    return flat.as_strided((-(-count // step),), (step,))


@functools.lru_cache(maxsize=1024)
def _stride(count: int, limit: int) -> int:
    step = -(-count // limit)
    while math.gcd(step, count) > 1:
        step += 1
    return step
