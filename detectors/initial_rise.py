"""A run whose loss rises from the very start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lossguard.detectors.rise import Rise

_FIRST = 3
"""Losses the lowest of which is the initial loss."""


class InitialRise:
    """``stay`` losses in a row, among the first ``steps``, above 1 + ``rise`` times the initial.

    The initial loss is the lowest of the first three; a run that starts at or below zero has
    nothing to compare with.
    """

    def __init__(self, rise: float, stay: int, steps: int) -> None:
        self._rise = rise
        self._stay = stay
        self._steps = steps
        self._seen = 0
        self._first_step = 0
        self._initial = math.inf
        self._num_above = 0

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
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._seen = state["seen"]
        self._first_step = state["first_step"]
        self._initial = state["initial"]
        self._num_above = state["num_above"]
