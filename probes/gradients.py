"""Gradient norms: one pass over all gradients, nothing read by the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Norms: TypeAlias = tuple[Tensor, Tensor]


class GradientNorms:
    """Norms of the gradients of a fixed list of parameters.

    ``measure()`` costs one ``torch._foreach_norm`` per (device, dtype) and two small kernels,
    whatever the number of parameters, and does not synchronise. Norms are accumulated in
    float32 (float64 gradients in float64).
    """

    def __init__(self, parameters: list[Tensor], device: torch.device, missing: Tensor) -> None:
        self._parameters = parameters
        self._device = device
        self._missing = missing

    @torch.no_grad()
    def measure(self, inverse_scale: Tensor | None = None) -> Norms | None:
        """(norm of each parameter's gradient, norm of all): float32, shapes ``(n,)`` and ``()``.

        A parameter without a gradient has the missing value and counts as zero in the total;
        None when there is no gradient at all. ``inverse_scale`` (0-d) multiplies all, where the
        gradients still carry the loss scale.
        """
        present = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        gradients = [g for i in present if (g := self._parameters[i].grad) is not None]
        if not gradients:
            return None
        stacked = torch.stack(norms_of(gradients, self._device))
        if inverse_scale is not None:
            stacked = stacked * inverse_scale
        total = torch.linalg.vector_norm(stacked)
        if len(present) == len(self._parameters):
            return stacked, total
        norms = [self._missing] * len(self._parameters)
        for i, norm in zip(present, stacked.unbind(), strict=True):
            norms[i] = norm
        return torch.stack(norms), total


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
    return [norms[i].to(device, torch.float32) for i in range(len(tensors))]


def _norm_of_any(gradient: Tensor) -> Tensor:
    """Norm of a sparse or complex gradient. Coalescing waits for the device, as SparseAdam does."""
    if gradient.layout is torch.sparse_coo:
        gradient = gradient.coalesce()
    if gradient.layout is not torch.strided:
        gradient = gradient.values()
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return norm
