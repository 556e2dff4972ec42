"""Modules left in the wrong mode: evaluations in training mode, training in eval mode."""

from __future__ import annotations

from collections import deque
from typing import Any

from lossguard.detectors.streaming import median

_WINDOW = 64
_LEAST = 20
_RISE = 0.5
_ALL = 0.99
_RISE_TO_ALL = 0.1
_NEAR = 2
"""Observations between an evaluation and the switch that it brought, at most."""


class TrainingInEval:
    """Counts the training steps in a row whose modules are in eval mode and were not before.

    Usual is the median of the last 64 shares; out of it is a share that is higher by 0.5, or that
    is all of them and higher by 0.1. Modules frozen from the start are usual.
    """

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=_WINDOW)
        self._since_evaluation = _NEAR + 1
        self.row = 0
        self.since = 0
        """Step of the first of them."""
        self.after_evaluation = False
        """Whether an evaluation came right before."""

    @property
    def usual(self) -> float:
        """The share that is usual; 0 before anything was seen."""
        return median(list(self._shares)) if self._shares else 0.0

    def evaluated(self) -> None:
        """An evaluation was made at this step."""
        self._since_evaluation = -1

    def push(self, step: int, share: float) -> int:
        """Take in the share of a step [0 to 1]; how many in a row are out of the usual."""
        self._since_evaluation += 1
        if share <= _RISE_TO_ALL or not self._is_out(share):
            self._shares.append(share)
            self.row = 0
            return 0
        if self.row == 0:
            self.since = step
            self.after_evaluation = self._since_evaluation <= _NEAR
        self.row += 1
        return self.row

    def drop(self) -> None:
        """Forget the row."""
        self.row = 0

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "shares": list(self._shares),
            "numbers": [self._since_evaluation, self.row, self.since, self.after_evaluation],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._shares = deque(state["shares"], maxlen=_WINDOW)
        self._since_evaluation, self.row, self.since, self.after_evaluation = state["numbers"]

    def _is_out(self, share: float) -> bool:
        if len(self._shares) < _LEAST:
            return False
        rise = share - self.usual
        return rise >= _RISE or (share >= _ALL and rise >= _RISE_TO_ALL)
