"""Reading the learning rate, lowering it, and holding it down for a while after a rollback."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor

from lossguard.probes.parameters import Groups

# OneCycleLR keeps its rates in the groups, the others in lists of their own.
_GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
_SCHEDULER_RATES = ("base_lrs", "max_lrs")
_COLD = 0.1
"""Share of the learning rate that a warm-up begins with."""


def learning_rate(optimizer: Groups) -> float | None:
    """The highest learning rate of the groups, or None where it lives on a device."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    known = [on_host for rate in rates if (on_host := rate_on_host(rate)) is not None]
    return max(known) if known else None


def rate_on_host(rate: Any) -> float | None:
    """A group's learning rate as a number, or None where that would wait for a device."""
    if isinstance(rate, Tensor):
        return float(rate.detach()) if rate.device.type == "cpu" else None
    return float(rate) if isinstance(rate, (int, float)) else None


def lower_rates(optimizer: Groups, schedulers: Sequence[Any], factor: float) -> None:
    """Scale the rate of every group, and what the schedules compute the next ones from."""
    for group in optimizer.param_groups:
        for key in _GROUP_RATES:
            rate = group.get(key)
            if isinstance(rate, Tensor):
                rate.detach().mul_(factor)
            elif isinstance(rate, (int, float)):
                group[key] = rate * factor
    waiting, seen = list(schedulers), set[int]()
    while waiting:
        scheduler = waiting.pop()
        if id(scheduler) in seen:
            continue
        seen.add(id(scheduler))
        for name in _SCHEDULER_RATES:
            rates = getattr(scheduler, name, None)
            if isinstance(rates, list):
                setattr(scheduler, name, [rate * factor for rate in rates])
        waiting += getattr(scheduler, "_schedulers", ())


class LearningRateHold:
    """Caps the learning rate of each group during ``optimizer.step()``, for a number of steps.

    A rollback out of a learning-rate bug would be undone by the very next step: the schedule still
    says x100. With the hold it is one rollback. The script's own value is put back after each
    step, so that schedules compute with what they wrote. Does not synchronise.
    """

    def __init__(self, optimizer: Groups) -> None:
        self._optimizer = optimizer
        self._caps: list[float | None] = []
        self._until_step = 0
        self._ramp_from = 0
        self._ramp_steps = 0
        self._written: list[tuple[dict[str, Any], Any, float]] = []
        self.steps_held = 0

    def hold(self, caps: list[float | None], until_step: int) -> None:
        """Cap group i at ``caps[i]`` through ``until_step``."""
        self._caps = caps
        self._until_step = until_step
        self.steps_held = 0

    def warm_up(self, from_step: int, steps: int) -> None:
        """Let the rates climb from a tenth of what the script says to all of it."""
        self._ramp_from = from_step
        self._ramp_steps = steps

    def apply(self, step: int) -> bool:
        """Before the step; True when a rate was changed for it."""
        self.release()
        ramp = self._ramp(step)
        caps = self._caps if step <= self._until_step else []
        if not caps and ramp == 1.0:
            return False
        groups = self._optimizer.param_groups
        for group, cap in zip_longest(groups, caps[: len(groups)]):
            rate = group.get("lr")
            if rate is None or (cap is None and ramp == 1.0):
                continue
            if isinstance(rate, Tensor):
                self._written.append((group, rate.detach().clone(), 0.0))
                live = rate.detach()
                (live if cap is None else live.clamp_(max=cap)).mul_(ramp)
                continue
            lowered = (rate if cap is None else min(rate, cap)) * ramp
            if lowered < rate:
                self._written.append((group, rate, lowered))
                group["lr"] = lowered
        held = bool(self._written)
        self.steps_held += held
        return held

    def release(self) -> None:
        """After the step: the script's own rates, unless it has set others since. Idempotent."""
        written, self._written = self._written, []
        for group, rate, lowered in written:
            if isinstance(rate, Tensor):
                group["lr"].detach().copy_(rate)
            elif group["lr"] == lowered:
                group["lr"] = rate

    def _ramp(self, step: int) -> float:
        past = step - self._ramp_from
        if past > self._ramp_steps:
            return 1.0
        return _COLD + (1.0 - _COLD) * past / (self._ramp_steps + 1)
