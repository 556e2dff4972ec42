"""A loss that was better once and now stands still."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from lossguard.detectors.flatness import Flat
from lossguard.detectors.streaming import median, noise

_STANDS = 0.15
"""Change over the stretch, as a share of what was lost, that is standing still."""
_OF_DESCENT = 0.10
_MOST_BESTS = 20.0
"""A loss of that many times the best counts however far the run had descended."""
LEAST_RATIO = 1.25
"""Level over the best, at least."""


class Stuck:
    """The last ``length`` losses stand still, far above the best.

    With L their median, b the best level and f the first losses: log(L / b) is at least ``share``
    of log(f / b) and of log 1.25, L - b at least a tenth of f - b (or 20 b); nine tenths of the
    losses lie in the upper half of the way; the medians of their two halves differ, plus two
    standard errors, by at most 15 % of L - b: at that rate it does not come back.
    """

    def __init__(self, share: float, most: int) -> None:
        self._share = share
        self._recent: deque[tuple[int, float]] = deque(maxlen=most)

    def push(self, step: int, loss: float) -> None:
        """Take in a finite loss."""
        self._recent.append((step, loss))

    def latest(self, count: int) -> list[float]:
        """The last losses."""
        start = max(0, len(self._recent) - count)
        return [self._recent[i][1] for i in range(start, len(self._recent))]

    def since(self, low: float, high: float) -> int:
        """The step from which on no two losses in a row were outside of the band."""
        onset = self._recent[-1][0]
        outside = 0
        for step, loss in reversed(self._recent):
            outside = 0 if low <= loss <= high else outside + 1
            if outside == 2:
                break
            if outside == 0:
                onset = step
        return onset

    def verdict(self, length: int, best: float, first: float) -> Flat | None:
        """The stretch that stands still, if the last ``length`` losses do."""
        if len(self._recent) < length:
            return None
        # Most losses are near the best, and three of the last say so at once.
        if not self._matters(median(self.latest(3)), best, first):
            return None
        values = self.latest(length)
        level = median(values)
        gap = level - best
        if not self._matters(level, best, first):
            return None
        older, newer = median(values[: length // 2]), median(values[length // 2 :])
        error = 1.2533 * noise(values) * math.sqrt(4.0 / length)
        if abs(older - newer) + 2.0 * error > _STANDS * gap:
            return None
        if sorted(values)[length // 10] - best < 0.5 * gap:
            return None
        return Flat(self.since(best + 0.5 * gap, math.inf), best, level)

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [list(entry) for entry in self._recent]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._recent = deque(((step, loss) for step, loss in state), maxlen=self._recent.maxlen)

    def _matters(self, level: float, best: float, first: float) -> bool:
        if level <= best:
            return False
        descent = max(first - best, 0.0)
        if best <= 0.0:
            return descent > 0.0 and level - best >= self._share * descent
        least = max(math.log(LEAST_RATIO), self._share * math.log(max(first / best, 1.0)))
        enough = min(_OF_DESCENT * descent, _MOST_BESTS * best)
        return math.log(level / best) >= least and level - best >= enough
