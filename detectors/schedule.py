"""Warm restarts of the learning rate, under which a loss may rise for a while."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Restarts:
    """Tells a scheduled restart of the learning rate from its first warm-up and from a bug.

    A restart climbs back, to at least 1.5 times its lowest value since the last peak, but not
    above what the run has already stood (SGDR: Loshchilov and Hutter, ICLR 2017). A rate that
    jumps above its former maximum is no restart.
    """

    _CLIMB = 1.5
    _SLACK = 1.01

    def __init__(self, grace: int) -> None:
        self._grace = grace
        self._left = 0
        self._peak = 0.0
        self._trough = math.inf

    @property
    def just_now(self) -> bool:
        """Whether the latest observation was a step of the climb."""
        return self._left == self._grace

    def watch(self, lr: float | None) -> bool:
        """Whether a restart was seen within the last ``grace`` observations, this one included."""
        if self._left:
            self._left -= 1
        if lr is None or not math.isfinite(lr) or lr <= 0.0:
            return self._left > 0
        if lr > self._peak:
            known = lr <= self._SLACK * self._peak
            self._peak = lr
            if not known:
                self._trough = lr
                return self._left > 0
        if lr >= self._CLIMB * self._trough:
            self._left = self._grace
            self._trough = lr
        elif lr < self._trough:
            self._trough = lr
        return self._left > 0

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {"left": self._left, "peak": self._peak, "trough": self._trough}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._left = state["left"]
        self._peak = state["peak"]
        self._trough = state["trough"]
