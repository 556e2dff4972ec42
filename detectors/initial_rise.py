"""A run whose loss rises from the very start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lossguard.detectors.rise import Rise

_FIRST = 3
"""Losses the lowest of which is the initial loss."""
_NOISE = 9
"""Losses among which a peak that was followed by less is noise: half of it is, if that is more."""


class InitialRise:
    """``stay`` losses in a row, among the first ``steps``, above 1 + ``rise`` times the initial.

    The initial loss is the lowest of the first three or, if more, half the highest of the first
    peaks, which single batches can make; a run that starts at or below zero has nothing to compare
    with.
    """

    def __init__(self, rise: float, stay: int, steps: int) -> None:
        self._rise = rise
        self._stay = stay
        self._steps = steps
        self._seen = 0
        self._first_step = 0
        self._initial = math.inf
        self._num_above = 0
        self._previous = -math.inf

    @property
    def active(self) -> bool:
        """Whether it holds now."""
        return self._num_above >= self._stay

    def push(self, step: int, loss: float) -> Rise | None:
        """Take in a finite loss."""
        self._seen += 1
        if self._seen == 1:
            self._first_step = step
        if self._seen <= _FIRST:
            self._initial = min(self._initial, loss)
        if self._seen <= _NOISE and loss < self._previous:
            self._initial = max(self._initial, 0.5 * self._previous)
        self._previous = loss
        far = self._seen <= self._steps and 0.0 < (1.0 + self._rise) * self._initial < loss
        self._num_above = self._num_above + 1 if far else 0
        if not self.active:
            return None
        text = "it rises from the start of the run"
        return Rise(self._initial, loss, self._first_step, True, text)

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "seen": self._seen,
            "first_step": self._first_step,
            "initial": self._initial,
            "num_above": self._num_above,
            "previous": self._previous if self._seen else 0.0,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._seen = state["seen"]
        self._first_step = state["first_step"]
        self._initial = state["initial"]
        self._num_above = state["num_above"]
        self._previous = state["previous"] if self._seen else -math.inf
