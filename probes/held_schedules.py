"""A schedule does not move on for an update that was skipped."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.learning_rate import rate_on_host
from lossguard.probes.training_state import TrainingState

_USUAL = 2
"""So many steps in a row that a schedule moved on by one: then it is stepped with each update."""


@dataclass
class _Habit:
    """How one schedule has been stepped so far."""

    at: float
    """Where it was when the last update began."""
    steps: int = 0
    """Updates in a row after each of which it moved on by one."""


@dataclass
class _Before:
    """One optimizer's schedules and settings as they were when its update was skipped."""

    at: dict[int, float]
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)


class HeldSchedules:
    """Takes the schedules of an optimizer one step back whose last update was skipped.

    It is done as the next step begins, before the rate is used: so nothing of the script's is
    stood in for, and one that steps its schedules at another time, or sets the rate by itself, is
    left alone. For this all schedules of the optimizer must have moved on by exactly one, as they
    did after each of the last updates, and the rate must be the one they wrote. Only for schedules
    that are known, and for skips that the host knows of: a fused optimizer keeps its verdict on the
    device. Costs a few comparisons of host numbers a step, and after a skip a copy of them.
    """

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._habits: dict[int, _Habit] = {}
        self._before: dict[int, _Before] = {}

    def skipped(self, optimizer: torch.optim.Optimizer) -> None:
        """Its update has just been dropped."""
        of = self._of(optimizer)
        if of:
            self._before[id(optimizer)] = _Before({id(s): _place(s) for s in of})

    def between_steps(self) -> None:
        """All orders are carried out; the script steps its schedules next. What a rollback has
        turned back is where it belongs."""
        for optimizer in self._state.optimizers:
            before = self._before.get(id(optimizer))
            if before is None:
                continue
            of = self._of(optimizer)
            if {id(s): _place(s) for s in of} != before.at:
                del self._before[id(optimizer)]
                continue
            before.states = {id(s): copy.deepcopy(s.state_dict()) for s in of}
            before.groups = [_settings(group) for group in optimizer.param_groups]

    def begin_step(self) -> int:
        """Before anything uses a rate; how many schedules were taken back."""
        before, self._before = self._before, {}
        taken = 0
        for optimizer in self._state.optimizers if self._state.schedulers else ():
            of = self._of(optimizer)
            if (kept := before.get(id(optimizer))) is not None:
                if self._may_take_back(of, kept, optimizer):
                    _take_back(of, kept, optimizer)
                    taken += len(of)
                self._note(of, count=False)
            else:
                self._note(of, count=True)
        return taken

    def will_follow(self) -> list[bool]:
        """Of each schedule, whether the script is about to step it for the update that is done."""
        return [
            (habit := self._habits.get(id(scheduler))) is not None
            and habit.steps >= _USUAL
            and habit.at == _place(scheduler)
            and id(getattr(scheduler, "optimizer", None)) not in self._before
            for scheduler in self._state.schedulers
        ]

    def _of(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        return [
            scheduler
            for scheduler in self._state.schedulers
            if getattr(scheduler, "optimizer", None) is optimizer
        ]

    def _note(self, schedulers: list[Any], *, count: bool) -> None:
        for scheduler in schedulers:
            habit = self._habits.setdefault(id(scheduler), _Habit(_place(scheduler)))
            if count:
                moved = _place(scheduler) - habit.at
                habit.steps = habit.steps + 1 if moved == 1 else 0
            habit.at = _place(scheduler)

    def _may_take_back(
        self, schedulers: list[Any], kept: _Before, optimizer: torch.optim.Optimizer
    ) -> bool:
        if kept.states.keys() != {id(s) for s in schedulers} or len(kept.groups) != len(
            optimizer.param_groups
        ):
            return False
        moved_on = all(
            self._habits.get(id(s), _Habit(0)).steps >= _USUAL and _place(s) == kept.at[id(s)] + 1
            for s in schedulers
        )
        return moved_on and any(_wrote_the_rate(s, optimizer) for s in schedulers)


def _place(scheduler: Any) -> float:
    """Its ``last_epoch``, or that of the first of its parts; NaN, which equals nothing, without."""
    parts = getattr(scheduler, "_schedulers", None) or [None]
    place = getattr(scheduler, "last_epoch", getattr(parts[0], "last_epoch", None))
    return place if isinstance(place, int) else math.nan


def _wrote_the_rate(scheduler: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the rates there now are the ones this schedule came to."""
    written = getattr(scheduler, "_last_lr", None)
    if not isinstance(written, list):
        return False
    now = [rate_on_host(group.get("lr")) for group in optimizer.param_groups]
    return None not in now and now == [rate_on_host(rate) for rate in written]


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)
        for key, value in group.items()
        if key != "params"
    }


@torch.no_grad()
def _take_back(schedulers: list[Any], kept: _Before, optimizer: torch.optim.Optimizer) -> None:
    for scheduler in schedulers:
        scheduler.load_state_dict(kept.states[id(scheduler)])
    for group, settings in zip(optimizer.param_groups, kept.groups, strict=True):
        for key, value in settings.items():
            if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                group[key].copy_(value)
            elif isinstance(value, (int, float, tuple)):
                group[key] = value
