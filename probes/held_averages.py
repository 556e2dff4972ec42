"""An average of the weights does not move on for an update that was skipped."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import nn

from lossguard.probes.training_state import TrainingState

_USUAL = 2
"""So many steps in a row after which it was updated once: then it is so with each step."""


@dataclass
class _Habit:
    is_ours: bool
    calls: int = 0
    """Since the last step began."""
    steps: int = 0
    """Steps in a row after each of which there was one call."""


class HeldAverages:
    """Says of torch's own ``AveragedModel.update_parameters`` whether it is to be passed over.

    That is where the update of the step before was dropped, as far as the host knows, in a loop
    with one optimizer, and where the average is updated once after each step. An average that is
    updated at another time, once an epoch, is left alone.
    """

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._habits: weakref.WeakKeyDictionary[nn.Module, _Habit] = weakref.WeakKeyDictionary()
        self._was_skipped = False

    def begin_step(self) -> None:
        """The next update begins."""
        for habit in self._habits.values():
            habit.steps = habit.steps + 1 if habit.calls == 1 else 0
            habit.calls = 0
        self._was_skipped = False

    def skipped(self) -> None:
        """The update of this step has been dropped."""
        self._was_skipped = True

    def will_follow(self) -> list[str]:
        """Names in ``extra`` of averages that are about to take in the update that is done."""
        if self._was_skipped:
            return []
        return [
            name
            for name, thing in self._state.extra.items()
            if isinstance(thing, nn.Module)
            and (habit := self._habits.get(thing)) is not None
            and (habit.is_ours and habit.steps >= _USUAL and habit.calls == 0)
        ]

    def passes_over(self, averaged: Any, model: Any) -> bool:
        """``averaged`` is about to take in the weights of ``model``: whether it shall not."""
        habit = self._habits.get(averaged)
        if habit is None:
            ids = self._state.ids_in_models()
            ours = any(id(p) in ids for p in model.parameters())
            habit = self._habits[averaged] = _Habit(ours)
        habit.calls += 1
        return self._was_skipped and habit.is_ours and habit.calls == 1 and habit.steps >= _USUAL
