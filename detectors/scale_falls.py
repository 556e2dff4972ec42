"""How a loss scale moves down: halvings counted over the last observations."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

_WINDOW = 64
"""Observations that are looked back at."""
_NEAR = 16
"""Falls this close, in observations, belong to one descent."""
_NEW_SCALER = 1.5
"""Doublings at once that no scaler makes: it has been made anew."""


class ScaleFalls:
    """The last log2 of the scale, the falls among them, and whether the first search is on.

    The search for a scale is on until ``quiet`` observations in a row bring no overflow.
    """

    def __init__(self, quiet: int) -> None:
        self._quiet = quiet
        self._scale = -1.0
        self._level = 0.0
        self._lowest = math.inf
        self._window: deque[float] = deque(maxlen=_WINDOW)
        self._falls: deque[list[int]] = deque(maxlen=_WINDOW)
        self._step = -1
        self.count = 0
        self.search()

    def search(self) -> None:
        """The search is on (again)."""
        self.searching = True
        self._calm = 0

    @property
    def below_one(self) -> bool:
        """Whether the scale was below 1 before."""
        return self.count > 0 and self._level < 0.0

    @property
    def recent(self) -> bool:
        """Whether it fell within the last 16 observations."""
        return bool(self._falls) and self.count - self._falls[-1][0] < _NEAR

    def push(self, step: int, scale: float, overflow: bool) -> bool:
        """Take in a scale; whether it has fallen. A zero counts as another halving."""
        self._step = step
        self.count += 1
        fell = False
        if scale != self._scale:
            level = math.log2(scale) if scale > 0.0 else self._level - 1.0
            if self.count > 1:
                fell = level < self._level - 0.5
                if level > self._level + _NEW_SCALER:
                    self.search()
            self._scale, self._level = scale, level
            self._lowest = min(self._lowest, level)
            if fell:
                self._falls.append([self.count, step])
        self._calm = 0 if fell or overflow else self._calm + 1
        if self.searching and self._calm >= self._quiet:
            self.searching = False
            self._window.clear()
        self._window.append(self._level)
        return fell

    def net(self, count: int) -> float:
        """Halvings from the highest of the last ``count`` observations to the latest."""
        return max(list(self._window)[-count:]) - self._level

    def highest(self) -> float:
        """The highest scale of the last 64 observations."""
        return float(2.0 ** max(self._window))

    def climbed(self) -> float:
        """Doublings from the lowest scale so far to the latest."""
        return self._level - self._lowest

    def since(self) -> int:
        """The step of the first fall of the descent that the latest fall belongs to."""
        after, since = self.count, self._step
        for at, step in reversed(self._falls):
            if after - at > _NEAR:
                break
            after, since = at, step
        return since

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "numbers": [self._scale, self._level, self._lowest, self._step],
            "window": list(self._window),
            "falls": [list(fall) for fall in self._falls],
            "search": [self.count, self.searching, self._calm],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._scale, self._level, self._lowest, self._step = state["numbers"]
        self._window = deque(state["window"], maxlen=_WINDOW)
        self._falls = deque(([at, step] for at, step in state["falls"]), maxlen=_WINDOW)
        self.count, self.searching, self._calm = state["search"]
