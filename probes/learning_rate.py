"""Holding the learning rate down for a while after a rollback."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def learning_rate(optimizer: torch.optim.Optimizer) -> float | None:
    """The highest learning rate of the groups, or None where it lives on a device."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    known = [float(rate) for rate in rates if rate is not None and _on_host(rate)]
    return max(known) if known else None


def _on_host(rate: Any) -> bool:
    return isinstance(rate, (int, float)) or (
        isinstance(rate, Tensor) and rate.device.type == "cpu"
    )


class LearningRateHold:
    """Caps the learning rate of each group during ``optimizer.step()``, for a number of steps.

    A rollback out of a learning-rate bug would be undone by the very next step: the schedule still
    says x100. With the hold it is one rollback. The script's own value is put back after each
    step, so that schedules compute with what they wrote. Does not synchronise.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._caps: list[float | None] = []
        self._until_step = 0
        self._written: list[tuple[dict[str, Any], Any]] = []
        self.steps_held = 0

    def hold(self, caps: list[float | None], until_step: int) -> None:
        """Cap group i at ``caps[i]`` through ``until_step``."""
        self._caps = caps
        self._until_step = until_step
        self.steps_held = 0

    def apply(self, step: int) -> bool:
        """Before the step; True when a rate was over its cap."""
        self.release()
        if step > self._until_step:
            return False
        for group, cap in zip(self._optimizer.param_groups, self._caps, strict=False):
            rate = group.get("lr")
            if cap is None or rate is None:
                continue
            if isinstance(rate, Tensor):
                self._written.append((group, rate.clone()))
                rate.clamp_(max=cap)
            elif rate > cap:
                self._written.append((group, rate))
                group["lr"] = cap
        held = bool(self._written)
        self.steps_held += held
        return held

    def release(self) -> None:
        """After the step: the script's own rates. Idempotent."""
        for group, rate in self._written:
            if isinstance(rate, Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = rate
        self._written = []
