"""A slow rise: losses that add up above the best block of the run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.level import Level, material_rise
from lossguard.detectors.rise import Rise
from lossguard.detectors.streaming import median, noise, wander

_BLOCKS = 64
_SETTLED = 16
"""Blocks in a row that end up until they become the reference."""
_NOT_YET = 0.25
"""Share of the rise up to which a block is taken for one from before it."""
_MEDIAN_ERROR = 1.2533
"""Standard error of a median in units of sigma / sqrt(n), for normal noise."""
_CLIP = 4.0
_MOST = 3.0
"""The sum is kept below so many limits, so that a recovery is seen soon."""
_RECENT = 8
_OVER = 16
"""Losses in a row that are not above, which end it."""
_PLAIN_RISE = 0.15
_PLAIN_SIGMAS = 6.0
"""A rise by that share of the level, and by so many sigmas, is worth a word however far the run
has descended."""
_STILL_UP = 0.6
"""Share of its peak that a rise has kept while it does not come down."""
_ROUNDING = 2.0**-8

Block = tuple[int, float, float, float, bool]
"""First step, median, standard error of the median, sigma, whether the run was young then."""


@dataclass(frozen=True, slots=True)
class DriftRule:
    """What ``DivergenceConfig`` says about ``Drift``."""

    block: int
    sigmas: float
    of_level: float
    of_descent: float
    limit: float
    severe: float
    of_young: float


class Drift:
    """Page's CUSUM of the losses above the best block median of the run.

    Works on y, the logarithm or the loss itself, as its ``Level`` does. A block holds ``block``
    losses; in a young run twice as many as there were blocks, at least 8. With the lowest
    median of the last 64 blocks as best,

        S = max(0, S + clip((y - best - bar) / sigma, -4, 4))        up: S > limit

    where bar is the rise worth a word: ``of_level`` of the best, ``of_descent`` of the descent
    of the run (or 15 % of the best and 6 sigma, if that is less), and ``sigmas`` standard errors
    of a block median, each of which is the larger of 1.2533 sigma / sqrt(n) and the wander of
    the last 16 medians, so that what wanders is let wander (Page, Biometrika 41, 1954; the clip
    bounds what one outlier can say). Sixteen in a row that are not above end it. A rise on its
    way down is given a block's time. Severe: at twice the limit, a rise of ``severe`` times that
    share; above a best from the run's first block, also ``of_young`` of it. After 16 blocks in a
    row that end up they are the reference.
    """

    def __init__(self, rule: DriftRule) -> None:
        self._rule = rule
        self._log = True
        self._first_step = 0
        self._seen = 0
        self._block: list[float] = []
        self._history: deque[Block] = deque(maxlen=_BLOCKS)
        self._yardstick: tuple[float, float, float, float, float] | None = None
        """Share of the descent, best, bar, sigma, the rise that is severe."""
        self._sum = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._num_above = 0
        self._peak = -math.inf
        self._num_blocks_up = 0
        self._num_below = 0
        self.active = False
        """Whether a rise was reported that is not over."""

    def push(self, step: int, loss: float, level: Level, of_descent: float | None) -> Rise | None:
        """Take in a finite loss. ``of_descent`` takes the place of the rule's where given."""
        if level.log != self._log or (self._log and loss <= 0.0):
            self.clear()
            self._log = level.log and loss > 0.0
        y = math.log(loss) if self._log else loss
        rise = self._add_up(y, level, of_descent) if self._history else None
        if not self._block:
            self._first_step = step
        self._block.append(y)
        if len(self._block) >= min(self._rule.block, max(8, 2 * len(self._history))):
            self._close_block()
        return rise

    def _measure(self, level: Level, of_descent: float | None) -> None:
        """What a loss is held against until the next block is complete."""
        rule = self._rule
        _, best, error, sigma, young = min(self._history, key=_median_of)
        before = self._loss(best)
        share = rule.of_descent if of_descent is None else of_descent
        wanted = material_rise(before, level.descent(), rule.of_level, share)
        plain = self._y(before + _PLAIN_RISE * abs(before)) - best
        worth = min(self._y(before + wanted) - best, max(plain, _PLAIN_SIGMAS * sigma))
        bar = max(worth, rule.sigmas * error)
        severe = max(rule.severe * wanted, rule.of_young * abs(before) if young else 0.0)
        self._yardstick = (share, best, bar, max(sigma, 1e-12), severe)

    def _add_up(self, y: float, level: Level, of_descent: float | None) -> Rise | None:
        rule = self._rule
        share = rule.of_descent if of_descent is None else of_descent
        if self._yardstick is None or self._yardstick[0] != share:
            self._measure(level, of_descent)
        assert self._yardstick is not None
        _, best, bar, sigma, severe_rise = self._yardstick
        excess = (y - best - bar) / sigma
        self._sum += min(max(excess, -_CLIP), _CLIP)
        self._num_below = self._num_below + 1 if excess <= 0.0 else 0
        if self._sum <= 0.0 or self._num_below >= _OVER:
            self._fall_back()
            return None
        self._recent.append(y)
        if excess <= 0.0:
            return None
        self._sum = min(self._sum, _MOST * rule.limit)
        self._num_above += 1
        if self._sum <= rule.limit or len(self._recent) < _RECENT:
            return None
        latest = median(list(self._recent))
        self._peak = max(self._peak, latest)
        coming_down = latest - best < _STILL_UP * (self._peak - best)
        if latest - best < bar or (coming_down and self._num_above < rule.block):
            return None
        self.active = True
        before, after = self._loss(best), self._loss(latest)
        severe = self._sum > 2.0 * rule.limit and after - before >= severe_rise
        since = self._since(best + _NOT_YET * (latest - best))
        text = f"above its best {self._num_above} times since"
        return Rise(before, after, since, severe, text)

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "log": self._log,
            "block": list(self._block),
            "first_step": self._first_step,
            "seen": self._seen,
            "history": [list(block) for block in self._history],
            "yardstick": list(self._yardstick) if self._yardstick else None,
            "sum": self._sum,
            "recent": list(self._recent),
            "num_above": self._num_above,
            "num_below": self._num_below,
            "peak": None if self._peak == -math.inf else self._peak,
            "num_blocks_up": self._num_blocks_up,
            "active": self.active,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._log = state["log"]
        self._block = list(state["block"])
        self._first_step = state["first_step"]
        self._seen = state["seen"]
        self._history = deque(
            ((a, b, c, d, e) for a, b, c, d, e in state["history"]), maxlen=_BLOCKS
        )
        yardstick = state["yardstick"]
        self._yardstick = tuple(yardstick) if yardstick else None
        self._sum = state["sum"]
        self._recent = deque(state["recent"], maxlen=_RECENT)
        self._num_above = state["num_above"]
        self._num_below = state["num_below"]
        self._peak = -math.inf if state["peak"] is None else state["peak"]
        self._num_blocks_up = state["num_blocks_up"]
        self.active = state["active"]

    def clear(self) -> None:
        """Start over, with no reference."""
        self._block = []
        self._history.clear()
        self._yardstick = None
        self._fall_back()

    def _fall_back(self) -> None:
        self._sum = 0.0
        self._recent.clear()
        self._num_above = 0
        self._num_below = 0
        self._peak = -math.inf
        self._num_blocks_up = 0
        self.active = False

    def _close_block(self) -> None:
        block, self._block = self._block, []
        middle = sorted(block)[len(block) // 2]
        medians = [past[1] for past in list(self._history)[-16:]]
        floor = _ROUNDING if self._log else _ROUNDING * abs(middle)
        sigma = max(noise(block), floor)
        error = max(_MEDIAN_ERROR * sigma / math.sqrt(len(block)), wander(medians))
        self._history.append(
            (self._first_step, middle, error, sigma, self._seen < self._rule.block)
        )
        self._seen += len(block)
        self._yardstick = None
        is_up = self._sum > self._rule.limit
        self._num_blocks_up = self._num_blocks_up + 1 if is_up else 0
        if self._num_blocks_up >= _SETTLED:
            self._history = deque(list(self._history)[-2:], maxlen=_BLOCKS)
            self._fall_back()

    def _y(self, loss: float) -> float:
        return math.log(max(loss, 1e-300)) if self._log else loss

    def _loss(self, y: float) -> float:
        return math.exp(min(y, 709.0)) if self._log else y

    def _since(self, y: float) -> int:
        """First step of the last block whose median was not above ``y``."""
        return max(block[0] for block in self._history if block[1] <= y)


def _median_of(block: Block) -> float:
    return block[1]
