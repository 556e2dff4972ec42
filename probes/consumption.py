"""Loops without an optimizer object: when has the script used its gradients up?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossguard.probes.parameters import evenly
from lossguard.probes.pieces import thinned

_SAMPLE = 8
_LOOKED_AT = 64


class _Then(NamedTuple):
    """What a parameter and its gradient were like after a ``backward()``."""

    version: int
    gradient: int
    gradient_version: int
    values: Tensor | None


class Consumption:
    """Tells a step from one more micro-batch, by what became of parameters and gradients.

    In between, a script that trains has changed a parameter, or has thrown its gradient away or
    filled it with zeros. torch counts writes to tensors, but not those that go through ``.data``:
    so a few values of small parameters are compared as well where they lie on the host. On a
    device that would have to be waited for; there, where torch has counted no write at all, every
    ``backward()`` is taken for a step once ``writes_are_hidden``.
    """

    def __init__(self, parameters: Sequence[Tensor], *, writes_are_hidden: bool = False) -> None:
        self._parameters = parameters
        self._sample = evenly([p for p in parameters if p.requires_grad], _SAMPLE)
        self._writes_are_hidden = writes_are_hidden
        self._then: list[_Then] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there are gradients that wait to be used."""
        return self._then is not None

    def after_backward(self) -> None:
        """Remember how things are."""
        self._then = [_look(p) for p in self._sample]

    def used_up(self) -> bool:
        """Whether the step is over that the last ``backward()`` belongs to."""
        if self._then is None:
            return False
        pairs = list(zip(self._sample, self._then, strict=True))
        if any(_has_changed(p, then) for p, then in pairs):
            return True
        return self._writes_are_hidden and any(then.values is None for _, then in pairs)

    def begin_anew(self) -> None:
        """The step has been counted."""
        self._then = None


def _look(parameter: Tensor) -> _Then:
    grad = parameter.grad
    values = _few_values(parameter) if parameter.device.type == "cpu" else None
    if grad is None:
        return _Then(parameter._version, 0, 0, values)
    return _Then(parameter._version, id(grad), grad._version, values)


def _has_changed(parameter: Tensor, then: _Then) -> bool:
    now = _look(parameter)
    if now[:3] != then[:3]:
        return True
    return now.values is not None and then.values is not None and differ(now.values, then.values)


@torch.no_grad()
def _few_values(tensor: Tensor) -> Tensor:
    """A copy of a few, shape ``(n,)``."""
    return thinned(tensor.detach(), _LOOKED_AT).reshape(-1).clone()


def differ(one: Tensor, other: Tensor) -> bool:
    """Bitwise, so that a NaN equals itself. Waits for the device."""
    return not torch.equal(one.view(torch.uint8), other.view(torch.uint8))


class Trace:
    """Whether parameters have changed since: for the search, on whatever device.

    Looks at a few values of each, which waits for the device: a handful of times in a run, and
    only where ``backward()`` runs and no optimizer steps.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = [p for p in parameters if p.grad is not None]
        self._versions = [p._version for p in self._parameters]
        self._values = [_few_values(p) for p in self._parameters]

    def changed(self) -> tuple[list[Tensor], bool]:
        """Those that have changed, and whether torch has counted none of the writes."""
        found: list[Tensor] = []
        hidden = True
        for p, version, values in zip(self._parameters, self._versions, self._values, strict=True):
            counted = p._version != version
            if counted or differ(_few_values(p), values):
                found.append(p)
                hidden &= not counted
        return found, bool(found) and hidden
