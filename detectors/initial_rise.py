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

_GROSS = 3.0
_GROSS_STAY = 3
_ABSURD = 20.0
_ABSURD_STAY = 2


class InitialRise:
    """``stay`` losses in a row, among the first ``steps``, above 1 + ``rise`` times the initial.

    The initial loss is the lowest of the first three or, if more, half the highest of the first
    peaks, which single batches can make; a run with a loss at or below zero has nothing to compare
    with. Above the lowest of the first three, no such care is needed of three times the rise that
    lasts three times as long, nor of 20 times the rise that lasts for two losses.
    """

    def __init__(self, rise: float, stay: int, steps: int) -> None:
        self._rise = rise
        self._stay = stay
        self._steps = steps
        self._seen = 0
        self._first_step = 0
        self._initial = math.inf
        self._lowest = math.inf
        self._num_above = 0
        self._num_gross = 0
        self._num_absurd = 0
        self._previous = -math.inf

    @property
    def active(self) -> bool:
        """Whether it holds now."""
        return (
            self._num_above >= self._stay
            or self._num_gross >= _GROSS_STAY * self._stay
            or self._num_absurd >= _ABSURD_STAY
        )

    def push(self, step: int, loss: float) -> Rise | None:
        """Take in a finite loss."""
        self._seen += 1
        if loss <= 0.0:
            self._seen = self._steps + 1  # of losses of either sign a multiple means nothing
        if self._seen == 1:
            self._first_step = step
        if self._seen <= _FIRST:
            self._initial = self._lowest = min(self._initial, loss)
        if self._seen <= _NOISE and loss < self._previous:
            self._initial = max(self._initial, 0.5 * self._previous)
        self._previous = loss
        early = self._seen <= self._steps
        far = early and 0.0 < (1.0 + self._rise) * self._initial < loss
        times = loss / self._lowest if early and self._lowest > 0.0 else 0.0
        self._num_above = self._num_above + 1 if far else 0
        self._num_gross = self._num_gross + 1 if times > 1.0 + _GROSS * self._rise else 0
        self._num_absurd = self._num_absurd + 1 if times > 1.0 + _ABSURD * self._rise else 0
        if not self.active:
            return None
        before = self._initial if self._num_above >= self._stay else self._lowest
        return Rise(before, loss, self._first_step, True, "it rises from the start of the run")

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "seen": self._seen,
            "first_step": self._first_step,
            "initial": self._initial if self._seen else 0.0,
            "lowest": self._lowest if self._seen else 0.0,
            "num_above": self._num_above,
            "num_gross": self._num_gross,
            "num_absurd": self._num_absurd,
            "previous": self._previous if self._seen else 0.0,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._seen = state["seen"]
        self._first_step = state["first_step"]
        self._initial = state["initial"] if self._seen else math.inf
        self._lowest = state["lowest"] if self._seen else math.inf
        self._num_above = state["num_above"]
        self._num_gross = state["num_gross"]
        self._num_absurd = state["num_absurd"]
        self._previous = state["previous"] if self._seen else -math.inf
