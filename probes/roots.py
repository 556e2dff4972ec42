"""A root of ``backward()`` as a loss: its value, and what the script has divided it by."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossguard.probes.sharded import is_whole, local_part

_DEEPEST = 6

SUMMED = "lossguard.summed"
"""Where a graph's node says which summed loss it is."""


class Root(NamedTuple):
    """A loss on the device, and what the script has divided it by."""

    value: Tensor
    divisor: float
    shared: Tensor | None
    """The divisor where it is a tensor: perhaps one and the same for several losses."""


class Unscaled:
    """What ``GradScaler.scale`` was given, until the next ``backward()``. Holds no graph."""

    def __init__(self) -> None:
        self._roots: dict[int, tuple[weakref.ref[Tensor], Root]] = {}

    def note(self, loss: Any, scaled: Any) -> None:
        """``GradScaler.scale(loss)`` returned ``scaled``: a tensor each, or as many."""
        if isinstance(loss, (list, tuple)) and isinstance(scaled, (list, tuple)):
            for one, its in zip(loss, scaled, strict=False):
                self.note(one, its)
        elif is_loss(loss) and isinstance(scaled, Tensor):
            self._roots[id(scaled)] = (weakref.ref(scaled), root_of(loss))

    def take(self, tensors: Any) -> list[Root]:
        """The losses among the roots of a ``backward()``, un-scaled; forgets the rest."""
        found = [self._as_meant(loss) for loss in losses_among(tensors)]
        self._roots.clear()
        return found

    def _as_meant(self, loss: Tensor) -> Root:
        scaled, unscaled = self._roots.get(id(loss), (None, None))
        if scaled is not None and unscaled is not None and scaled() is loss:
            return unscaled
        return root_of(loss)


def losses_among(tensors: Any) -> Iterator[Tensor]:
    """Those of the roots of a ``backward()`` that are one real number each."""
    roots = [tensors] if isinstance(tensors, Tensor) else list(tensors or ())
    return (root for root in roots if is_loss(root))


def is_loss(thing: Any) -> bool:
    """Whether it is one real number."""
    return (
        isinstance(thing, Tensor)
        and thing.numel() == 1
        and thing.dtype.is_floating_point
        and is_whole(thing)
    )


def root_of(loss: Tensor) -> Root:
    """A tiny kernel: scripts go on computing with their loss, in place too."""
    with torch.no_grad():
        value = local_part(loss).reshape(()).to(torch.float32, copy=True)
    return Root(value, *_divisor(loss))


def _divisor(loss: Tensor) -> tuple[float, Tensor | None]:
    """The number a script divided its loss by in the last operation (``loss / 4``), or 1; and the
    tensor that a summed loss was divided by at some time before.

    The autograd graph keeps both on the host's side, so looking does not touch the device.
    """
    number, node = 1.0, loss.grad_fn
    for _ in range(_DEEPEST):
        if node is None or node.name() not in ("DivBackward0", "MulBackward0"):
            break
        try:
            other = getattr(node, "_saved_other", None)
        except RuntimeError:  # freed by an earlier backward
            break
        inner: Any = node.next_functions[0][0]
        divides = node.name() == "DivBackward0"
        if type(other) is Tensor and divides and inner is not None and SUMMED in inner.metadata:
            return _as_divisor(other) if number == 1.0 else number, other.detach()
        if number == 1.0:
            number = _as_divisor(other) if divides else round(1.0 / _as_divisor(other), 6)
        node = inner
    return number, None


def _as_divisor(other: Any) -> float:
    """As a number, where the host knows it; else 1."""
    if type(other) is Tensor and other.device.type == "cpu" and other.dim() == 0:
        other = other.tolist()  # `item()` fails in a dispatch mode: these are wrapped numbers
    return float(other) if isinstance(other, (int, float)) and other > 0 else 1.0


def mark_as_sum(loss: Tensor, name: str) -> None:
    """Note on the graph of a loss that it is a sum over all targets."""
    node: Any = loss.grad_fn
    if node is not None:
        node.metadata[SUMMED] = name
