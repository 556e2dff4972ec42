"""What a rival rule is, and the two small things that most of them are made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from lossguard.detectors import Observation

UPSET = "upset"
"""An alarm that says: something just broke, or the loss or gradient is too high."""
VALIDATION = "validation"
"""An alarm that says: the validation loss gets worse, or leaves the training loss behind."""
PROGRESS = "progress"
"""An alarm that says: the run swings, or stands still."""
NO_DECREASE = "no decrease"
"""An alarm that says: the loss is no lower than it was; a stall or a rise, the rule cannot tell."""


class Rival(ABC):
    """One rule of another system, on the plain metrics of one run.

    The rule and its defaults are read from the source that the docstring names; where a rule is
    off by default, or needs a threshold from its user, the docstring says which is used here.
    """

    @abstractmethod
    def update(self, observation: Observation) -> str | None:
        """Take in one row; the kind of the alarm (one of the four above), or None."""


class Window:
    """The last values of a metric, oldest first, non-finite ones too [float64]."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values = np.zeros(2 * size)
        self._end = 0

    def __len__(self) -> int:
        return min(self._end, self.size)

    @property
    def full(self) -> bool:
        """Whether ``size`` values are in it."""
        return self._end >= self.size

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The values; valid until the next ``push``."""
        return self._values[max(0, self._end - self.size) : self._end]

    def push(self, value: float) -> None:
        """Add a value; the oldest goes. Amortised O(1)."""
        if self._end == 2 * self.size:
            self._values[: self.size] = self._values[self.size :]
            self._end = self.size
        self._values[self._end] = value
        self._end += 1


def not_finite(observation: Observation) -> bool:
    """Whether the loss or the gradient norm of the row is NaN or infinite."""
    values = observation.values
    return not (
        math.isfinite(values.get("loss", 0.0)) and math.isfinite(values.get("grad_norm", 0.0))
    )
