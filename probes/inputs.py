"""What the model is fed: the first input of its training forwards, in a few small kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lossguard.probes.pieces import FLOATS, absmax, is_measurable, sample

_LOOKED_AT = 128
_AVERAGED = 1 << 14
_SMALL = 1 << 12
_NOT_INPUTS = ("label", "target", "mask", "position_ids", "token_type_ids")

Number: TypeAlias = "Tensor | float"
"""0-d float32 on the input's device, or a number where the input lies on the host."""


class Inputs(NamedTuple):
    """What a step was fed; None where it does not apply."""

    top_share: Number | None = None
    distinct_share: Number | None = None
    absmax: Number | None = None
    mean: Number | None = None
    fingerprint: Number | None = None
    length: float | None = None
    batch: float | None = None


class InputStatistics:
    """Of the first input tensor of each training forward.

    Integers: the shares of the most frequent and of the distinct ones among at most 128 values,
    evenly spread, and the last dimension. On the host they are counted, on a device each is
    compared with each (no sorting, no synchronisation). Floating point: the largest absolute value
    (one reduction, which a NaN survives), where ``measure_mean`` is set the mean of at most 16,384
    values, and the elements per sample. Of a step's forwards the largest shares, value and length
    stand, and the sum of the batches.

    The fingerprint, of the first forward, is a sum of the 128 values with fixed weights: the same
    batch has the same one, and another hardly ever.
    """

    def __init__(self) -> None:
        self._seen: Inputs | None = None
        self._weights: dict[torch.device, Tensor] = {}
        self.measure_mean = False
        self.kind = ""
        """Type and shape of an input, ``int64 (8, 128)``: of the last one whose type or number of
        dimensions was another than before."""
        self._last: tuple[torch.dtype, int] | None = None

    @torch.no_grad()
    def look(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """One forward begins with these arguments."""
        tensor = first_input(args, kwargs)
        if tensor is None:
            return
        if self._last != (last := (tensor.dtype, tensor.dim())):
            self._last = last
            self.kind = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        tensor = tensor.detach()
        batch = float(len(tensor)) if tensor.dim() else 1.0
        look = self._of_floats if tensor.dtype in FLOATS else self._of_integers
        found = look(tensor, batch)
        self._seen = found if self._seen is None else _together(self._seen, found)

    def _of_floats(self, tensor: Tensor, batch: float) -> Inputs:
        length = tensor.numel() / max(1.0, batch)
        if tensor.dtype is torch.float32 and tensor.numel() <= _SMALL and _is_on_host(tensor):
            with np.errstate(all="ignore"):  # a warning of ours would be news to the script
                largest, fingerprint = _summed_up(tensor)
                mean = float(tensor.numpy().mean()) if self.measure_mean else None
            return Inputs(None, None, largest, mean, fingerprint, length, batch)
        return Inputs(
            absmax=absmax(tensor).to(torch.float32),
            mean=sample(tensor, _AVERAGED).mean(dtype=torch.float32) if self.measure_mean else None,
            fingerprint=self._fingerprint(sample(tensor, _LOOKED_AT)),
            length=length,
            batch=batch,
        )

    def _of_integers(self, tensor: Tensor, batch: float) -> Inputs:
        values = sample(tensor, _LOOKED_AT)
        length = float(tensor.shape[-1]) if tensor.dim() else 1.0
        if _is_on_host(values):
            top, distinct, fingerprint = _counted(values)
            return Inputs(top, distinct, None, None, fingerprint, length, batch)
        times = (values.unsqueeze(1) == values).sum(1, dtype=torch.float32)
        # Of a value that is there n times, each counts 1/n: together the distinct ones.
        share, number = times.amax() / len(values), times.reciprocal().mean()
        return Inputs(share, number, None, None, self._fingerprint(values), length, batch)

    def _fingerprint(self, values: Tensor) -> Tensor:
        weights = self._weights.get(values.device)
        if weights is None:
            places = torch.arange(_LOOKED_AT, dtype=torch.float32, device=values.device)
            weights = self._weights[values.device] = (places * 0.618034) % 1.0 + 0.5
        return torch.dot(values.to(torch.float32), weights.narrow(0, 0, len(values)))

    def take(self) -> Inputs:
        """Of the forwards since the last call."""
        seen, self._seen = self._seen, None
        return seen or Inputs()


def _is_on_host(tensor: Tensor) -> bool:
    """Whether its values can be read for nothing."""
    return type(tensor) is Tensor and tensor.is_cpu


_PLACES = ((np.arange(_LOOKED_AT, dtype=np.float32) * np.float32(0.618034)) % 1.0 + 0.5).astype(
    np.float32
)


def _counted(values: Tensor) -> tuple[float, float, float]:
    """Share of the most frequent, share of the distinct, fingerprint of values on the host."""
    numbers = values.numpy()
    size = len(numbers)
    fingerprint = float(np.dot(numbers.astype(np.float32), _PLACES[:size]))
    times: dict[int, int] = {}
    for number in numbers.tolist():
        times[number] = times.get(number, 0) + 1
    return max(times.values()) / size, len(times) / size, fingerprint


def _summed_up(values: Tensor) -> tuple[float, float]:
    """Largest absolute value and fingerprint of a few values on the host."""
    numbers = values.numpy().reshape(-1)
    some = numbers[:: -(-len(numbers) // _LOOKED_AT) | 1]
    fingerprint = float(some.dot(_PLACES[: len(some)]))
    return float(np.abs(numbers).max()), fingerprint


def _together(a: Inputs, b: Inputs) -> Inputs:
    return Inputs(
        _larger(a.top_share, b.top_share),
        _larger(a.distinct_share, b.distinct_share),
        _larger(a.absmax, b.absmax),
        a.mean,
        a.fingerprint,
        _larger(a.length, b.length),
        None if a.batch is None else a.batch + (b.batch or 0.0),
    )


def _larger(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b.to(a.device))
    if isinstance(a, Tensor) or isinstance(b, Tensor):  # one on the host: no number of a kind
        return a
    return a if a > b or a != a else b  # a NaN wins


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
