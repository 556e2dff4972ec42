"""The highest learning rate of a run, and how it usually grows."""

from __future__ import annotations

import math
from typing import Any

_FORGET = 0.95
"""Share of the usual increment that is left after each rate without one."""
_STILL_UP = 1.5
"""Multiple of the peak at which a rate that has jumped is still up."""


class RatePeak:
    """The peak, the number of positive rates, and the largest recent increment of log(peak).

    The increment fades by 5 % a rate, so that a warm-up of ten rows excuses a leap during it and
    soon after, and no longer.
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self.num_rates = 0
        self.never_rose = True
        """Whether the rate has been constant, or has fallen only."""
        self._usual = 0.0

    def accept(self, lr: float) -> None:
        """Let a rate >= 0 in."""
        self.num_rates += lr > 0.0
        if lr <= self.peak:
            self._usual *= _FORGET
            return
        if self.peak > 0.0:
            self._usual = max(self.rise(lr), _FORGET * self._usual)
            self.never_rose = False
        self.peak = lr

    def rise(self, lr: float) -> float:
        """log(lr / peak) of a rate > 0, where there is a peak."""
        return math.log(lr) - math.log(self.peak)

    def is_passed(self, lr: float, factor: float, usual: float) -> bool:
        """Whether the rate is ``factor`` above the peak and ``usual`` increments as well."""
        if lr <= self.peak or self.peak == 0.0:
            return False
        rise = self.rise(lr)
        return rise > math.log(factor) and rise > usual * self._usual

    def is_still_passed(self, lr: float) -> bool:
        """Whether a rate that had jumped has not come back."""
        return lr > _STILL_UP * self.peak

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [self.peak, self.num_rates, self.never_rose, self._usual]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self.peak, self.num_rates, self.never_rose, self._usual = state
