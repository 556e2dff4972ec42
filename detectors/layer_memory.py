"""What is remembered of each layer from earlier in the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lossguard.detectors.base import Family
from lossguard.detectors.depth import is_weight

_START_SAMPLES = 4
_EVERY = 16
"""Observations between two looks at which layers have a gradient."""


class StartLevel:
    """The largest share of each layer in the first samples of the run."""

    def __init__(self) -> None:
        self._levels: list[float] = []
        self._num_samples = 0

    def learn(self, family: Family) -> None:
        """Take in a sample, if it is one of the first."""
        if len(family.values) != len(self._levels):
            self._levels = [0.0] * len(family.values)
            self._num_samples = 0
        if self._num_samples < _START_SAMPLES:
            self._num_samples += 1
            shares = np.nan_to_num(np.where(family.missing, 0.0, family.values), posinf=0.0)
            self._levels = np.maximum(self._levels, np.clip(shares, 0.0, 1.0)).tolist()

    def level(self, index: int) -> float:
        """The level of a layer."""
        return self._levels[index]

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [self._num_samples, list(self._levels)]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._num_samples, levels = state
        self._levels = list(levels)


class FormerGradient:
    """Which weights have had a gradient, so that those that never had one pass for frozen."""

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._weights: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._alive: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._rows = 0

    def silent(self, family: Family) -> npt.NDArray[np.intp]:
        """The weights that had a gradient and now have one of exactly zero, while others have some.

        A microsecond for 1,000 layers while no value is zero.
        """
        values, missing = family.values, family.missing
        if family.names is not self._names:
            self._learn_names(family.names)
        looks = self._rows % _EVERY == 0
        self._rows += 1
        if not looks and np.count_nonzero(values) == len(values):
            return _NOBODY
        moves = self._weights & ~missing & (values > 0.0) & np.isfinite(values)
        silent = (values == 0.0) & ~missing & self._alive
        self._alive |= moves
        return np.flatnonzero(silent) if moves.any() else _NOBODY

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [self._rows, np.flatnonzero(self._alive).tolist(), len(self._alive)]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._rows, alive, size = state
        self._names = ()
        self._alive = np.zeros(size, np.bool_)
        self._alive[alive] = True

    def _learn_names(self, names: Sequence[str]) -> None:
        if list(names) != list(self._names):
            weights = [is_weight(name) for name in names]
            if not any(weights):
                weights = ["bias" not in name for name in names]
            self._weights = np.array(weights, np.bool_)
            if len(self._alive) != len(names):
                self._alive = np.zeros(len(names), np.bool_)
        self._names = names


_NOBODY: npt.NDArray[np.intp] = np.zeros(0, np.intp)
