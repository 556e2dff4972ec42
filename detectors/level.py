"""The level at which a metric runs, and how far a new value stands above it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lossguard.detectors.streaming import NORMAL_PER_MAD, SortedWindow

_TAIL_SHARE = 0.99
_TAIL_SIGMAS = 2.326
"""Where that share of a normal distribution ends."""
_FORGIVEN = 2
"""Largest values of a short window that do not make its tail: a few outliers are none."""
_EARLY = 8
"""Accepted values during which the start of the run is still being learnt."""
_YOUNG = 3
"""Noise windows after which the start of the run, whose noise may be less, is forgotten."""
_ROUNDING = 2.0**-8
"""Relative spacing of bfloat16: a loss rounded to it must not look noiseless."""


_MOST_SHARES = 60.0
_MOST_LEVELS = 1.0
"""Rise, in levels times ``of_level`` and in levels, that is material however far the run has
descended: one whose loss began at 1e13 has a descent that would hide everything."""


def material_rise(level: float, descent: float, of_level: float, of_descent: float) -> float:
    """The rise worth a word: a share of the level, and a share of the descent of the run.

    The second keeps a loss that is close to zero quiet when it doubles to close to zero.
    """
    share = of_level * abs(level)
    return max(share, min(of_descent * descent, _MOST_SHARES * share + _MOST_LEVELS * abs(level)))


class Level:
    """Median and scale of the accepted values of one metric.

    Works on y = log(x) while every value was positive and on y = x after the first that was
    not (rewards, log-likelihoods), so that ``deviation`` is a count of sigmas in both:

        deviation = (y - median(last `window` y)) / scale
        scale = max(1.4826 median|dy| / sqrt 2,  q99(y - median) / 2.326,  rounding)

    The first term follows today's noise (in a young run that of the last 16 |dy| where it is
    more: relative to a loss that falls fast, noise grows), the second keeps a heavy upper tail
    (last ``tail`` values) from alarming, the third is the spacing of bfloat16. A value adds at
    most ``most_sigmas`` to the tail, so that a few outliers do not teach it their size.

    ``highest`` and ``lowest`` are the extremes of the median, the former of the first values
    only: between them lies the descent of the run, the yardstick of what matters when a loss
    is close to zero.
    """

    __slots__ = (
        "_diffs",
        "_last",
        "_latest",
        "_most_sigmas",
        "_tail",
        "_values",
        "count",
        "highest",
        "log",
        "lowest",
    )

    def __init__(
        self, window: int, tail: int, most_sigmas: float = 3.5, noise_window: int = 64
    ) -> None:
        self._values = SortedWindow(window)
        self._diffs = SortedWindow(noise_window)
        self._latest = SortedWindow(noise_window // 4)
        self._tail = SortedWindow(tail)
        self._most_sigmas = most_sigmas
        self._last = 0.0
        self.log = True
        self.count = 0
        self.highest = -math.inf
        self.lowest = math.inf

    def accept(self, value: float) -> None:
        """Let a (finite) value into the reference."""
        if self.log and value <= 0.0:
            self._leave_log()
        y = math.log(value) if self.log else value
        if len(self._values):
            self._diffs.push(abs(y - self._last))
            self._latest.push(abs(y - self._last))
            rise = y - self._values.median()
            bounded = self._most_sigmas < math.inf
            self._tail.push(min(rise, self._most_sigmas * self.scale()) if bounded else rise)
        self._values.push(y)
        self._last = y
        self.count += 1
        middle = self.median()
        if self.count <= _EARLY and middle > self.highest:
            self.highest = middle
        if middle < self.lowest:
            self.lowest = middle

    def rebase(self, values: Sequence[float]) -> None:
        """Make ``values`` the new reference: the metric has moved for good."""
        self._values = SortedWindow(self._values.size)
        for value in values:
            self.accept(value)

    def median(self) -> float:
        """The level, in the unit of the metric."""
        middle = self._values.median()
        return _exp(middle) if self.log else middle

    def descent(self) -> float:
        """How far the median has come down since the start of the run, at most."""
        return max(0.0, self.highest - self.lowest) if self.count else 0.0

    def near_scale(self) -> float:
        """Sigma of y by today's noise alone."""
        floor = _ROUNDING if self.log else _ROUNDING * abs(self._values.median()) or 1e-12
        if not len(self._tail):
            return floor
        floor = max(floor, self._diffs.grain())
        change = self._diffs.median()
        if self.count < _YOUNG * self._diffs.size:
            change = max(change, self._latest.median())
        return max(NORMAL_PER_MAD * change / math.sqrt(2.0), floor)

    def scale(self) -> float:
        """Sigma of y."""
        if not len(self._tail):
            return self.near_scale()
        return max(self.near_scale(), self._tail.quantile(_TAIL_SHARE, _FORGIVEN) / _TAIL_SIGMAS)

    def deviation(self, value: float) -> float:
        """How many sigmas ``value`` stands above the level (negative: below)."""
        return self.rise(value) / self.scale()

    def rise(self, value: float) -> float:
        """y(value) - y(level)."""
        middle = self._values.median()
        if not self.log:
            return value - middle
        return (math.log(value) if value > 0.0 else -1e3) - middle

    def above(self, rise: float) -> float:
        """The value that stands ``rise`` (in y) above the level."""
        y = self._values.median() + rise
        return _exp(y) if self.log else y

    def matters(self, value: float, of_level: float, of_descent: float) -> bool:
        """Whether the rise is ``of_level`` of the level and ``of_descent`` of the descent."""
        middle = self.median()
        return value - middle >= material_rise(middle, self.descent(), of_level, of_descent)

    def tail_bound(self, probability: float) -> float:
        """The rise (in y) that a value exceeds with ``probability``, from the upper tail.

        Peaks over a threshold u with the Hill estimator: of n deviations the k = 2 % largest
        exceed u by g on average, so P(deviation > u + g ln(k / (n p))) = p. In y = log(x) an
        exponential excess is a Pareto tail of x (Hill, Ann. Stat. 3, 1975), the case that
        SPOT's generalised Pareto fit (Siffer et al., KDD 2017) meets on gradient norms.
        """
        n = len(self._tail)
        if n < 16:
            return math.inf
        k = max(4, n // 50)
        top = self._tail.top(k + 1)
        start = max(top[0], 0.0)
        excess = sum(max(y - start, 0.0) for y in top[1:]) / k
        return start + excess * math.log(max(k / (n * probability), 1.0))

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "values": self._values.values(),
            "diffs": self._diffs.values(),
            "latest": self._latest.values(),
            "tail": self._tail.values(),
            "last": self._last,
            "log": self.log,
            "count": self.count,
            "highest": self.highest,
            "lowest": self.lowest,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the level that ``state`` came from."""
        self._values = SortedWindow(self._values.size, state["values"])
        self._diffs = SortedWindow(self._diffs.size, state["diffs"])
        self._latest = SortedWindow(self._latest.size, state["latest"])
        self._tail = SortedWindow(self._tail.size, state["tail"])
        self._last = state["last"]
        self.log = state["log"]
        self.count = state["count"]
        self.highest = state["highest"]
        self.lowest = state["lowest"]

    def _leave_log(self) -> None:
        """Go on in plain units; the tail is learnt anew."""
        values = [_exp(y) for y in self._values.values()]
        self.log = False
        self._values = SortedWindow(self._values.size, values)
        changes = [abs(b - a) for a, b in itertools.pairwise(values)]
        self._diffs = SortedWindow(self._diffs.size, changes)
        self._latest = SortedWindow(self._latest.size, changes)
        self._tail = SortedWindow(self._tail.size)
        self._last = values[-1] if values else 0.0


def _exp(y: float) -> float:
    return math.exp(y) if y < 709.0 else math.inf
