"""What may be ordered about an optimizer and a loss scale, beside their rates: done in place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_MOMENTS = frozenset(
    {
        "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg",
        "grad_avg", "acc_delta", "sum", "step",
    }
)  # fmt: skip
"""What torch's own optimizers and those built like them call their moments, and the count that
corrects their bias."""


class CannotDo(Exception):
    """The order does not fit this run; nothing was changed."""


@torch.no_grad()
def reset_moments(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Set the moments of every parameter to zero, as before the first step; how many parameters.

    Raises CannotDo where a state holds what is no known moment: some optimizers keep weights
    there. Does not synchronise.
    """
    states = [state for o in optimizers for state in o.state.values() if state]
    for state in states:
        strange = [key for key, v in state.items() if isinstance(v, Tensor) and key not in _MOMENTS]
        if strange:
            raise CannotDo(f"the optimizer keeps {', '.join(map(str, strange))[:80]}: no moments")
    for state in states:
        for key, value in state.items():
            if isinstance(value, Tensor):
                value.zero_()
            elif key == "step":
                state[key] = 0
    return len(states)


@torch.no_grad()
def set_loss_scale(scaler: Any, scale: float) -> float:
    """Give GradScaler another scale, which it then goes on to adapt. Does not synchronise."""
    live = getattr(scaler, "_scale", None)
    if not isinstance(live, Tensor):
        raise CannotDo("there is no loss scale: no GradScaler has been used")
    live.fill_(scale)
    growth = getattr(scaler, "_growth_tracker", None)
    if isinstance(growth, Tensor):
        growth.zero_()
    return scale


class ClipBound:
    """Clips the L2 norm of all gradients from an order on, before the update, on the device.

    ``norm`` is the total that the probe has measured anyway, un-scaled; gradients that GradScaler
    has not un-scaled yet are multiplied by the same factor. A foreach pass over the gradients,
    and no synchronisation.
    """

    def __init__(self) -> None:
        self.max_norm = math.inf

    @torch.no_grad()
    def apply(self, norm: Tensor | None, optimizer: Any) -> None:
        """Scale the gradients of an optimizer down where their norm is over the bound."""
        if math.isinf(self.max_norm) or norm is None:
            return
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        factor = (self.max_norm / (norm + 1e-6)).clamp_(max=1.0)
        by_device: dict[torch.device, list[Tensor]] = {}
        for gradient in gradients:
            by_device.setdefault(gradient.device, []).append(gradient)
        for device, here in by_device.items():
            torch._foreach_mul_(here, factor.to(device))
