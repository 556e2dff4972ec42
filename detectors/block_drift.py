"""A slow rise: block medians above the best of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.level import Level, material_rise
from lossguard.detectors.rise import Rise
from lossguard.detectors.streaming import noise

_BLOCKS = 64
_SETTLED = 16
"""Blocks in a row that are up until they become the reference."""
_NOT_YET = 0.25
"""Share of the rise up to which a block is taken for one from before it."""
_MEDIAN_ERROR = 1.2533
"""Standard error of a median in units of sigma / sqrt(n), for normal noise."""

Block = tuple[int, float, float]
"""First step, median, standard error of the median."""


@dataclass(frozen=True, slots=True)
class DriftRule:
    """What ``DivergenceConfig`` says about ``BlockDrift``."""

    block: int
    sigmas: float
    of_level: float
    of_descent: float
    severe: float


class BlockDrift:
    """The median of two blocks in a row exceeds the best of the last 64 blocks.

    Works on y, the logarithm or the loss itself, as its ``Level`` does. A block holds ``block``
    losses; in a young run twice as many as there were blocks, at least 8. It is *up* when its
    median exceeds the best one by ``of_level`` of it and by more than ``sigmas`` s [in y], where

        s = max(1.2533 noise / sqrt(n), noise of the last 16 block medians)

    is the larger of the two blocks' own. Severe: a rise of ``severe`` times that share, or four
    blocks in a row on which it doubles. After 16 blocks up in a row they are the reference.
    """

    def __init__(self, rule: DriftRule) -> None:
        self._rule = rule
        self._log = True
        self._first_step = 0
        self._block: list[float] = []
        self._history: deque[Block] = deque(maxlen=_BLOCKS)
        self._rises: list[float] = []
        self.active = False
        """Whether two blocks in a row were up when the last one was completed."""

    def push(self, step: int, loss: float, level: Level, of_descent: float | None) -> Rise | None:
        """Take in a finite loss. ``of_descent`` takes the place of the rule's where given."""
        if level.log != self._log or (self._log and loss <= 0.0):
            self.clear()
            self._log = level.log and loss > 0.0
        if not self._block:
            self._first_step = step
        self._block.append(math.log(loss) if self._log else loss)
        if len(self._block) < min(self._rule.block, max(8, 2 * len(self._history))):
            return None
        latest = self._close_block()
        if not self._history:
            self._history.append(latest)
            return None
        best = min(self._history, key=lambda block: block[1])
        share = self._rule.of_descent if of_descent is None else of_descent
        before, after = self._loss(best[1]), self._loss(latest[1])
        wanted = material_rise(before, level.descent(), self._rule.of_level, share)
        clear = latest[1] - best[1] > self._rule.sigmas * max(latest[2], best[2])
        self._rises = [*self._rises, after - before] if clear and after - before > wanted else []
        self._history.append(latest)
        self.active = len(self._rises) >= 2
        if not self.active:
            return None
        if len(self._rises) >= _SETTLED:
            self._settle()
            return None
        text = f"the median of {len(self._rises)} blocks in a row is up"
        since = self._since(best[1] + _NOT_YET * (latest[1] - best[1]))
        return Rise(before, after, since, self._is_severe(wanted), text)

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "log": self._log,
            "block": list(self._block),
            "first_step": self._first_step,
            "history": [list(block) for block in self._history],
            "rises": list(self._rises),
            "active": self.active,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._log = state["log"]
        self._block = list(state["block"])
        self._first_step = state["first_step"]
        self._history = deque(((s, m, e) for s, m, e in state["history"]), maxlen=_BLOCKS)
        self._rises = list(state["rises"])
        self.active = state["active"]

    def clear(self) -> None:
        """Start over, with no reference."""
        self._block = []
        self._history.clear()
        self._rises = []
        self.active = False

    def _close_block(self) -> Block:
        block, self._block = self._block, []
        middle = sorted(block)[len(block) // 2]
        medians = [median for _, median, _ in list(self._history)[-16:]]
        error = _MEDIAN_ERROR * noise(block) / math.sqrt(len(block))
        return self._first_step, middle, max(error, noise(medians))

    def _loss(self, y: float) -> float:
        return math.exp(min(y, 709.0)) if self._log else y

    def _is_severe(self, wanted: float) -> bool:
        rises = self._rises
        doubled = len(rises) >= 4 and rises[-1] >= 2.0 * max(rises[0], wanted)
        return doubled or rises[-1] >= self._rule.severe * wanted

    def _since(self, y: float) -> int:
        """First step of the last block whose median was not above ``y``."""
        return max(first_step for first_step, median, _ in self._history if median <= y)

    def _settle(self) -> None:
        self._history = deque(list(self._history)[-2:], maxlen=_BLOCKS)
        self._rises = []
        self.active = False
