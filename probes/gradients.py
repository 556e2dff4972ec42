"""Gradient norms: one pass over all gradients, nothing read by the host."""

from __future__ import annotations

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
        norms: list[Tensor] = [self._missing] * len(self._parameters)
        plain: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        present: list[int] = []
        for i, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            present.append(i)
            if gradient.layout is torch.strided and gradient.dtype.is_floating_point:
                plain.setdefault((gradient.device, gradient.dtype), []).append(i)
            else:
                norms[i] = _norm_of_any(gradient)
        for (_, dtype), indices in plain.items():
            gradients = [g for i in indices if (g := self._parameters[i].grad) is not None]
            wide = None if dtype is torch.float64 else torch.float32
            for i, norm in zip(indices, torch._foreach_norm(gradients, 2, wide), strict=True):
                norms[i] = norm
        if not present:
            return None
        here = [norms[i].to(self._device, torch.float32) for i in present]
        stacked = torch.stack(here)
        if inverse_scale is not None:
            stacked = stacked * inverse_scale
        total = torch.linalg.vector_norm(stacked)
        if len(present) == len(norms):
            return stacked, total
        for i, norm in zip(present, stacked.unbind(), strict=True):
            norms[i] = norm
        return torch.stack(norms), total


def _norm_of_any(gradient: Tensor) -> Tensor:
    """Norm of a sparse or complex gradient. Coalescing waits for the device, as SparseAdam does."""
    if gradient.layout is torch.sparse_coo:
        gradient = gradient.coalesce()
    if gradient.layout is not torch.strided:
        gradient = gradient.values()
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return norm
