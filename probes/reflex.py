"""The veto: an update whose gradient or loss is out of bounds is dropped in the very step.

A fused optimizer gets the verdict through its own ``found_inf`` tensor: its kernel leaves
weights, moments and step counts as they are, and nothing synchronises. For the others the verdict
is read once (one scalar from the device) and the gradients are held back during the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.wire import (
    SKIP_COMMAND,
    SKIP_GRAD_NORM,
    SKIP_LOSS,
    SKIP_NONFINITE,
    SKIP_SCALER,
)

_UNSET: Any = object()


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's kernels skip the update by themselves when ``found_inf`` is 1.

    Fused SGD does not on its very first step: it would leave momentum buffers uninitialised.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    if not all(group.get("fused") for group in optimizer.param_groups):
        return False
    return bool(optimizer.state) or not isinstance(optimizer, torch.optim.SGD)


class Reflex:
    """Bounds on the device, and the gate in front of one optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._bounds = torch.full((2,), float("inf"), device=device)
        self._weights = torch.tensor([SKIP_GRAD_NORM, SKIP_LOSS], device=device).float()
        self._held: list[tuple[Tensor, Tensor]] = []
        self._found_inf_before: Any = _UNSET
        self._found_inf_set = False

    def set_bounds(self, grad_norm: float | None, loss: float | None) -> None:
        """Upper bounds from now on; None is no bound. One small host-to-device copy."""
        inf = float("inf")
        bounds = torch.tensor([grad_norm or inf, inf if loss is None else loss])
        self._bounds.copy_(bounds, non_blocking=True)

    @torch.no_grad()
    def verdict(self, total_norm: Tensor | None, loss: Tensor | None) -> Tensor | None:
        """0 for a good update, else a sum of the wire's SKIP_ numbers (float32, 0-d, on device).

        Where GradScaler found an overflow, the answer is SKIP_SCALER alone. A handful of tiny
        kernels; no synchronisation.
        """
        if total_norm is None and loss is None:
            return None
        zero = self._bounds.new_zeros(())
        parts = [zero if x is None else x.to(self._bounds.device) for x in (total_norm, loss)]
        values = torch.stack(parts)
        over = (values > self._bounds).float()
        nonfinite = values.isfinite().logical_not().any().float()
        code = torch.dot(over, self._weights) + SKIP_NONFINITE * nonfinite
        overflow = getattr(self._optimizer, "found_inf", None)
        if isinstance(overflow, Tensor):
            scaler_code = torch.full_like(code, SKIP_SCALER)
            code = torch.where(overflow.to(code.device) > 0, scaler_code, code)
        return code

    def close_gate(self, code: Tensor | None, by_command: bool) -> Tensor | None:
        """Before the step: drop this update if ``code`` is not 0, or because it was ordered.

        Returns the code that stands. Synchronises (one scalar) unless the optimizer is fused.
        """
        self.open_gate()
        if by_command:
            code = self._bounds.new_full((), float(SKIP_COMMAND))
        if code is None:
            return None
        if takes_found_inf(self._optimizer):
            self._set_found_inf((code > 0).float())
        elif by_command or code.item() > 0:
            self._hold_gradients()
        return code

    def _set_found_inf(self, verdict: Tensor) -> None:
        before = getattr(self._optimizer, "found_inf", _UNSET)
        if isinstance(before, Tensor):  # GradScaler's own, which it reads elsewhere: not touched
            verdict = torch.maximum(before.to(verdict.device), verdict)
        self._found_inf_before = before
        self._found_inf_set = True
        self._optimizer.found_inf = verdict  # type: ignore[attr-defined]

    def _hold_gradients(self) -> None:
        for parameter in optimizer_parameters(self._optimizer):
            if parameter.grad is not None:
                self._held.append((parameter, parameter.grad))
                parameter.grad = None

    def open_gate(self) -> None:
        """After the step: everything as the script left it. Idempotent."""
        for parameter, gradient in self._held:
            if parameter.grad is None:
                parameter.grad = gradient
        self._held = []
        if self._found_inf_set:
            if self._found_inf_before is _UNSET:
                if hasattr(self._optimizer, "found_inf"):
                    del self._optimizer.found_inf
            else:
                self._optimizer.found_inf = self._found_inf_before  # type: ignore[attr-defined]
            self._found_inf_set = False
            self._found_inf_before = _UNSET
