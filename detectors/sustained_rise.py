"""A loss that jumps far above its level and stays there."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.level import Level
from lossguard.detectors.rise import Rise
from lossguard.detectors.streaming import median

_KEPT = 64
_LOOK_BACK = 8
"""Accepted losses before the run that is up, among which the onset may be."""
_STILL_UP = 0.7
"""Share of its rise that a loss which does not recover has kept."""


@dataclass(frozen=True, slots=True)
class SustainedRule:
    """What ``DivergenceConfig`` says about ``SustainedRise``."""

    min_samples: int
    young: float
    deviation: float
    of_level: float
    of_descent: float
    stay: int
    settle: int


class SustainedRise:
    """``stay`` losses in a row far above the level, the last of which have not come down.

    Far: by ``deviation`` * (1 + (young / n)^2) sigmas (see ``Level``), by ``of_level`` of the level
    and ``of_descent`` of the descent so far. A run of losses that is coming down is left alone
    for eight times as long. After ``settle`` in a row, the latest 64 become the level.
    """

    def __init__(self, rule: SustainedRule, level: Level) -> None:
        self._rule = rule
        self.level = level
        self._up: deque[float] = deque(maxlen=_KEPT)
        self._num_up = 0
        self._since: deque[int] = deque(maxlen=_LOOK_BACK)

    @property
    def active(self) -> bool:
        """Whether the latest loss was far above the level."""
        return self._num_up > 0

    def push(self, step: int, loss: float, of_descent: float | None) -> Rise | None:
        """Take in a finite loss. ``of_descent`` takes the place of the rule's where given."""
        rule, level = self._rule, self.level
        if level.count < rule.min_samples or not self._is_far(loss, of_descent):
            self.drop()
            level.accept(loss)
            self._since.append(step)
            return None
        self._up.append(loss)
        self._num_up += 1
        if self._num_up >= rule.settle:
            level.rebase(list(self._up))
            self.drop()
            return None
        if self._num_up < rule.stay:
            return None
        up, before = list(self._up), level.median()
        after = median(up)
        recovering = median(up[-3:]) - before < _STILL_UP * (after - before)
        if recovering and self._num_up < 8 * rule.stay:
            return None
        return Rise(before, after, self._since[0], True, "it does not come down")

    def drop(self) -> None:
        """Forget the run of losses that is up."""
        self._up.clear()
        self._num_up = 0

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "level": self.level.state(),
            "up": list(self._up),
            "num_up": self._num_up,
            "since": list(self._since),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self.level.restore(state["level"])
        self._up = deque(state["up"], maxlen=_KEPT)
        self._num_up = state["num_up"]
        self._since = deque(state["since"], maxlen=_LOOK_BACK)

    def _is_far(self, loss: float, of_descent: float | None) -> bool:
        rule, level = self._rule, self.level
        share = rule.of_descent if of_descent is None else of_descent
        if not level.matters(loss, rule.of_level, share):
            return False
        return level.deviation(loss) > rule.deviation * (1.0 + (rule.young / level.count) ** 2)
