"""Gradients that still carry GradScaler's scale when their norms are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.gradients import Norms
from lossguard.probes.parameters import optimizer_parameters


def inverse_scale(optimizer: Any) -> Tensor | None:
    """1 / loss scale, where GradScaler leaves the un-scaling to a fused kernel."""
    scale = getattr(optimizer, "grad_scale", None)
    return scale.reciprocal() if isinstance(scale, Tensor) else None


def still_scaled(
    scaler: Any, stepping: torch.optim.Optimizer | None, optimizers: Sequence[torch.optim.Optimizer]
) -> list[torch.optim.Optimizer]:
    """The optimizers besides the one that steps whose gradients GradScaler has yet to un-scale."""
    states = getattr(scaler, "_per_optimizer_states", None)
    if not states or getattr(scaler, "_scale", None) is None:
        return []

    def is_ready(optimizer: torch.optim.Optimizer) -> bool:
        state = states.get(id(optimizer)) or {}
        return getattr(state.get("stage"), "name", "READY") == "READY"

    return [o for o in optimizers if o is not stepping and is_ready(o)]


@torch.no_grad()
def unscaled(
    norms: Norms,
    parameters: Sequence[Tensor],
    waiting: Sequence[torch.optim.Optimizer],
    scaler: Any,
) -> Norms:
    """``norms`` without the scale on those of ``waiting``. A few kernels, no synchronisation."""
    each, total = norms
    scaled = {id(p) for optimizer in waiting for p in optimizer_parameters(optimizer)}
    factor = scaler._scale.to(each.device, torch.float32).reciprocal()
    there = [i for i, p in enumerate(parameters) if p.grad is not None]
    fresh = list(each.unbind())
    for i in there:
        if id(parameters[i]) in scaled:
            fresh[i] = fresh[i] * factor
    known = torch.stack([fresh[i] for i in there])
    return torch.stack(fresh), None if total is None else torch.linalg.vector_norm(known)
