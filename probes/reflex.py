"""The veto: an update whose gradient or loss is out of bounds is dropped in the very step.

A fused optimizer gets the verdict through its own ``found_inf`` tensor: its kernel leaves
weights, moments and step counts as they are, and nothing synchronises. For the others the verdict
is read once (one scalar from the device) and the gradients are held back during the step.
"""

from __future__ import annotations

import math
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
_FLOAT32_MAX = 3.4028234e38


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's kernels skip the update by themselves when ``found_inf`` is 1.

    Fused SGD does not on its first step: it would leave momentum buffers uninitialised.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    if not all(group.get("fused") for group in optimizer.param_groups):
        return False
    return not isinstance(optimizer, torch.optim.SGD) or _has_momentum(optimizer)


def _has_momentum(optimizer: torch.optim.SGD) -> bool:
    return all(
        not group["momentum"]
        or all(
            p.grad is None or optimizer.state.get(p, {}).get("momentum_buffer") is not None
            for p in group["params"]
        )
        for group in optimizer.param_groups
    )


class Reflex:
    """Bounds on the device, and the gate in front of one optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._bounds = torch.full((2,), float("inf"), dtype=torch.float32, device=device)
        codes = [float(SKIP_GRAD_NORM), float(SKIP_LOSS)]
        self._weights = torch.tensor(codes, dtype=torch.float32, device=device)
        self._held: list[tuple[Tensor, Tensor]] = []
        self._settings: list[dict[str, Any]] = []
        self._found_inf_before: Any = _UNSET
        self._found_inf: Tensor | None = None

    def set_bounds(self, grad_norm: float | None, loss: float | None) -> None:
        """Upper bounds from now on; None is no bound. Two tiny kernels; nothing is copied."""
        for i, bound in enumerate((grad_norm or None, loss)):
            known = bound if bound is not None and abs(bound) <= _FLOAT32_MAX else math.inf
            self._bounds.narrow(0, i, 1).fill_(known)

    @torch.no_grad()
    def verdict(self, total_norm: Tensor | None, loss: Tensor | None) -> Tensor | None:
        """0 for a good update, else a sum of the wire's SKIP_ numbers (float32, 0-d, on device).

        Where GradScaler found an overflow, the answer is SKIP_SCALER alone. A handful of tiny
        kernels; no synchronisation.
        """
        if total_norm is None and loss is None:
            return self.overflow()
        zero = self._bounds.new_zeros(())
        parts = [zero if x is None else x.to(zero) for x in (total_norm, loss)]
        values = torch.stack(parts)
        over = (values > self._bounds).float()
        nonfinite = (values - values).isnan().any().float()  # Inf - Inf is NaN: fewer kernels
        code = torch.dot(over, self._weights) + SKIP_NONFINITE * nonfinite
        overflow = self.overflow()
        if overflow is not None:
            code = torch.where(overflow > 0, overflow, code)
        return code

    @torch.no_grad()
    def overflow(self) -> Tensor | None:
        """SKIP_SCALER or 0 (0-d, on the device), where GradScaler told a fused optimizer.

        None for the others: there GradScaler does not even call ``step()``.
        """
        found = getattr(self._optimizer, "found_inf", None)
        if not isinstance(found, Tensor):
            return None
        return (found.to(self._bounds.device) > 0).to(torch.float32).reshape(()) * SKIP_SCALER

    def close_gate(self, code: Tensor | None, by_command: bool) -> Tensor | None:
        """Before the step: drop this update if ``code`` is not 0, or because it was ordered.

        Returns the code that stands. Synchronises (one scalar) unless the optimizer is fused.
        """
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
        self._found_inf = verdict
        self._optimizer.found_inf = verdict  # type: ignore[attr-defined]

    def _hold_gradients(self) -> None:
        # Some optimizers count their steps in the group, gradients or not.
        self._settings = [
            {key: value for key, value in group.items() if isinstance(value, (int, float))}
            for group in self._optimizer.param_groups
        ]
        for parameter in optimizer_parameters(self._optimizer):
            if parameter.grad is not None:
                self._held.append((parameter, parameter.grad))
                parameter.grad = None

    @property
    def holds_back(self) -> bool:
        """Whether the host knows that this update is dropped: not where a kernel does it."""
        return bool(self._settings)

    def open_gate(self) -> None:
        """After the step: everything as the script left it. Idempotent."""
        for parameter, gradient in self._held:
            if parameter.grad is None:
                parameter.grad = gradient
        for group, values in zip(self._optimizer.param_groups, self._settings, strict=False):
            group.update(values)
        self.forget_held()

    def forget_held(self) -> None:
        """Open the gate of a step that died inside: gradients held back then are not for now."""
        self._held = []
        self._settings = []
        ours, before = self._found_inf, self._found_inf_before
        self._found_inf, self._found_inf_before = None, _UNSET
        if ours is None or getattr(self._optimizer, "found_inf", None) is not ours:
            return
        if before is _UNSET:
            del self._optimizer.found_inf  # type: ignore[attr-defined]
        else:
            self._optimizer.found_inf = before  # type: ignore[attr-defined]
