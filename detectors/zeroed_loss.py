"""A loss written as 0.0 where it was NaN, as trainers do that filter what they log."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

_BEFORE = 8
_LEAST = 0.01
"""Losses that are rounded when they are printed come down to 0.0 from below this."""
_SHARE = 0.2
"""No loss falls to nothing from above this share of its recent median in one step."""
_IN_A_ROW = 3


class ZeroedLoss:
    """Three losses in a row that are exactly 0.0, right after losses that were far from it.

    Far: the lowest of the last eight is above 0.01 and above a fifth of their median. A loss
    that is fitted away or rounded gets to zero by small ones, and a loss of zero from the first
    step on (policy gradients) has nothing before it. Where the gradient norm is zero or not finite
    as well, one is enough.
    """

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=_BEFORE)
        self._num_zeros = 0

    def push(self, loss: float, grad_norm: float | None) -> int:
        """Take in a loss; how many steps ago the zeros began, or -1 while there is nothing."""
        if loss != 0.0:
            self._num_zeros = 0
            if math.isfinite(loss):
                self._before.append(loss)
            return -1
        self._num_zeros += 1
        if not self._was_far_from_zero():
            self._before.clear()
            return -1
        no_gradient = grad_norm is not None and (grad_norm == 0.0 or not math.isfinite(grad_norm))
        if self._num_zeros < (1 if no_gradient else _IN_A_ROW):
            return -1
        return self._num_zeros - 1

    def _was_far_from_zero(self) -> bool:
        if not self._before:
            return False
        ordered = sorted(self._before)
        return ordered[0] > max(_LEAST, _SHARE * ordered[len(ordered) // 2])

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {"before": list(self._before), "num_zeros": self._num_zeros}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._before = deque(state["before"], maxlen=_BEFORE)
        self._num_zeros = state["num_zeros"]
