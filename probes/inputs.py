"""What the model is fed: the first input of its training forwards, in a few small kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossguard.probes.pieces import FLOATS, is_measurable, sample

_LOOKED_AT = 128
_NOT_INPUTS = ("label", "target", "mask", "position_ids", "token_type_ids")


class Inputs(NamedTuple):
    """What a step was fed; None where it does not apply. Device tensors are float32, 0-d."""

    top_share: Tensor | None = None
    distinct_share: Tensor | None = None
    absmax: Tensor | None = None
    length: float | None = None


class InputStatistics:
    """Of the first input tensor of each training forward; the largest of a step's stand.

    Integers: the shares of the most frequent and of the distinct ones among at most 128 values,
    evenly spread (each compared with each: six kernels, no sorting, no synchronisation), and the
    last dimension. Floating point: the largest absolute value (one reduction, which a NaN
    survives) and the elements per sample.
    """

    def __init__(self) -> None:
        self._seen = Inputs()

    @torch.no_grad()
    def look(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """One forward begins with these arguments."""
        tensor = first_input(args, kwargs)
        if tensor is None:
            return
        if tensor.dtype in FLOATS:
            absmax = torch.linalg.vector_norm(tensor.detach(), float("inf"))
            length = tensor.numel() / max(1, len(tensor)) if tensor.dim() else 1.0
            found = Inputs(absmax=absmax.float(), length=length)
        else:
            values = sample(tensor, _LOOKED_AT)
            times = (values.unsqueeze(1) == values).sum(1, dtype=torch.float32)
            length = float(tensor.shape[-1]) if tensor.dim() else 1.0
            # Of a value that is there n times, each counts 1/n: together the distinct ones.
            distinct = times.reciprocal().mean()
            found = Inputs(times.amax() / len(values), distinct, length=length)
        before = self._seen
        self._seen = Inputs(*(_larger(a, b) for a, b in zip(before, found, strict=True)))

    def take(self) -> Inputs:
        """Of the forwards since the last call."""
        seen, self._seen = self._seen, Inputs()
        return seen


def _larger(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return torch.maximum(a, b.to(a.device)) if isinstance(a, Tensor) else max(a, b)


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first tensor among a forward's arguments, in dicts and lists too.

    ``input_ids`` before any other; masks, labels and positions are no inputs.
    """
    for value in (*args, kwargs):
        found = _first_of(value)
        if found is not None:
            return found
    return None


def _first_of(value: Any, depth: int = 2) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if is_measurable(value) else None
    inner: Iterable[Any]
    if depth and isinstance(value, Mapping):
        if is_measurable(ids := value.get("input_ids")):
            return ids
        inner = [v for k, v in value.items() if not any(word in str(k) for word in _NOT_INPUTS)]
    elif depth and isinstance(value, (list, tuple)):
        inner = value
    else:
        return None
    return next((t for v in inner if (t := _first_of(v, depth - 1)) is not None), None)
