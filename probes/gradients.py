"""Gradient norms: one pass over all gradients, nothing read by the host, nothing communicated."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lossguard.probes.clipping import Found
from lossguard.probes.sharded import gradient_part, is_distributed, local_part, norm_part

log = logging.getLogger("lossguard")

Norms: TypeAlias = tuple[Tensor, Tensor | None]
"""Of each parameter's gradient, and of all together."""

_EXACT = (torch.float32, torch.float64)


class _Noted(NamedTuple):
    """A norm that somebody else took, of a gradient as it was then."""

    gradient: weakref.ref[Tensor]
    version: int
    norm: Tensor


class GradientNorms:
    """Norms of the gradients of a fixed list of parameters, of the parts that lie on this rank.

    ``measure()`` costs one ``torch._foreach_norm`` per (device, dtype) and two small kernels,
    whatever the number of parameters, and does not synchronise. What torch's own clipping has
    computed of gradients that are still the same is used and not computed again. Norms are
    accumulated in float32 (float64 gradients in float64).
    """

    def __init__(self, parameters: list[Tensor], device: torch.device, missing: Tensor) -> None:
        self._parameters = parameters
        self._distributed = [is_distributed(p) for p in parameters]
        self._are_plain = not any(self._distributed)
        self._are_checked = False
        self._device = device
        self._missing = missing
        self._noted: dict[int, _Noted] = {}
        self._said = False

    @torch.no_grad()
    def note(self, found: Found) -> None:
        """Norms that torch has just computed, of whatever. In half precision a norm keeps three
        digits, and may overflow where the gradient does not: such ones are not taken."""
        norms = {id(tensor): norm for tensor, norm in found if norm.dtype in _EXACT}
        for i, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            norm = norms.get(id(gradient))
            if gradient is None or norm is None:
                continue
            if self._distributed[i] or is_distributed(norm):
                norm = norm_part(parameter, gradient, norm)
            if norm is not None and (version := _version(gradient)) is not None:
                self._noted[i] = _Noted(weakref.ref(gradient), version, norm)

    @torch.no_grad()
    def measure(self, inverse_scale: Tensor | None = None, *, clips: bool = False) -> Norms | None:
        """(norm of each parameter's gradient, norm of all): float32, shapes ``(n,)`` and ``()``.

        A parameter without a gradient has the missing value and counts as zero in the total;
        None when there is no gradient at all. Nor can the norm of a gradient be told that is still
        to be summed over ranks: then there is no total. ``inverse_scale`` (0-d) multiplies all,
        where the gradients still carry the loss scale. ``clips``: the script is about to clip.
        """
        if self._are_plain and not self._noted:
            gradients = [g for p in self._parameters if (g := p.grad) is not None]
            if len(gradients) == len(self._parameters) and (stacked := self._plain(gradients)):
                return self._scaled(stacked[0], inverse_scale)
        norms: dict[int, Tensor] = {}
        parts: dict[int, Tensor] = {}
        unknown: list[int] = []
        for i, parameter in enumerate(self._parameters):
            if (gradient := parameter.grad) is None:
                continue
            # A foreach operation on distributed gradients leaves no trace. Only clipping follows
            # right after the norms.
            is_sure = clips or not self._distributed[i]
            if is_sure and (norm := self._norm_noted(i, gradient)) is not None:
                norms[i] = norm
                continue
            part = gradient_part(parameter, gradient) if self._distributed[i] else gradient
            if part is None:
                unknown.append(i)
            else:
                parts[i] = part
        self._noted.clear()
        if not (norms or parts):
            return None
        norms.update(zip(parts, norms_of(list(parts.values()), self._device), strict=True))
        if unknown:
            self._say(unknown)
        return self._put_together(norms, inverse_scale, is_complete=not unknown)

    def _plain(self, gradients: list[Tensor]) -> tuple[Tensor] | None:
        """Norms of gradients that are all of one kind, with nothing done for each; None where
        they are not."""
        first = gradients[0]
        if not self._are_checked:  # of several types there is one kernel each, by the other way
            self._are_checked = True
            self._are_plain = len({(g.device, g.dtype) for g in gradients}) == 1
            if not self._are_plain:
                return None
        try:
            wide = None if first.dtype is torch.float64 else torch.float32
            stacked = torch.stack(torch._foreach_norm(gradients, 2, wide))
        except RuntimeError:  # sparse, complex, on several devices
            self._are_plain = False
            return None
        if first.device != self._device or stacked.dtype is not torch.float32:
            stacked = stacked.to(self._device, torch.float32)
        return (stacked,)

    def _scaled(self, stacked: Tensor, inverse_scale: Tensor | None) -> Norms:
        if inverse_scale is not None:
            stacked = stacked * inverse_scale
        return stacked, torch.linalg.vector_norm(stacked)

    def _norm_noted(self, index: int, gradient: Tensor) -> Tensor | None:
        """Unless the gradient has changed since."""
        noted = self._noted.get(index)
        if noted is None or noted.gradient() is not gradient or _version(gradient) != noted.version:
            return None
        return _as_ours(noted.norm, self._device)

    def _put_together(
        self, norms: dict[int, Tensor], inverse_scale: Tensor | None, *, is_complete: bool
    ) -> Norms:
        present = sorted(norms)
        stacked = torch.stack([norms[i] for i in present])
        if inverse_scale is not None:
            stacked = stacked * inverse_scale
        total = torch.linalg.vector_norm(stacked) if is_complete else None
        if len(present) == len(self._parameters):
            return stacked, total
        each = [self._missing] * len(self._parameters)
        for i, norm in zip(present, stacked.unbind(), strict=True):
            each[i] = norm
        return torch.stack(each), total

    def _say(self, unknown: list[int]) -> None:
        if not self._said:
            self._said = True
            log.warning(
                "no gradient norm: %d gradients are still to be summed over the ranks when the "
                "optimizer gets them, and summing them up would cost a collective a step",
                len(unknown),
            )


def norms_of(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """L2 norm of each, float32, 0-d on ``device``: one foreach kernel a (device, dtype)."""
    norms: dict[int, Tensor] = {}
    plain: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.layout is torch.strided and tensor.dtype.is_floating_point:
            plain.setdefault((tensor.device, tensor.dtype), []).append(i)
        else:
            norms[i] = _norm_of_any(tensor)
    for (_, dtype), indices in plain.items():
        wide = None if dtype is torch.float64 else torch.float32
        found = torch._foreach_norm([tensors[i] for i in indices], 2, wide)
        norms.update(zip(indices, found, strict=True))
    return [_as_ours(norms[i], device) for i in range(len(tensors))]


def _as_ours(norm: Tensor, device: torch.device) -> Tensor:
    if norm.dtype is torch.float32 and norm.device == device:
        return norm
    return norm.to(device, torch.float32)


def _norm_of_any(gradient: Tensor) -> Tensor:
    """Norm of a sparse or complex gradient. Coalescing waits for the device, as SparseAdam does."""
    if gradient.layout is torch.sparse_coo:
        gradient = gradient.coalesce()
    if gradient.layout is not torch.strided:
        gradient = gradient.values()
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return norm


def _version(gradient: Tensor) -> int | None:
    """Grows when the gradient is written to; None where torch does not count that.

    Of a distributed tensor what is written to is it, or the part that lies here.
    """
    part = local_part(gradient)
    if part.is_inference():
        return None
    return part._version if part is gradient else gradient._version + part._version
