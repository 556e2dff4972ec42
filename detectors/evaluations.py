"""The evaluations of a run: the best of them, and those since."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.run_curve import RunCurve
from lossguard.detectors.streaming import median
from lossguard.detectors.trend import flicker

_KEPT = 48


@dataclass(slots=True)
class Evaluation:
    """One validation loss and the level of the training loss at that time."""

    step: int
    val: float
    train: float


class Evaluations:
    """The last 48 evaluations, the best since the start of the run, and the curve since then.

    The best is the smallest median of three in a row, so that one lucky evaluation is none. An
    improvement counts from ``min_delta`` of it on.
    """

    def __init__(self, min_delta: float) -> None:
        self._min_delta = min_delta
        self._kept: deque[Evaluation] = deque(maxlen=_KEPT)
        self._worst = -math.inf
        self._count = 0
        self.best: Evaluation | None = None
        """The smallest evaluation among the best three."""
        self.level = math.inf
        """The median of those three."""
        self.since = 0
        """Evaluations since the best."""
        self.curve = RunCurve(_KEPT)
        """The validation losses since the best, however many."""

    def push(self, step: int, val: float, train: float) -> bool:
        """Take in an evaluation; whether it improves on the best."""
        kept = self._kept
        kept.append(Evaluation(step, val, train))
        self.since += 1
        self._count += 1
        self.curve.push(step, val)
        if len(kept) < 3:
            return False
        latest = [kept[-3], kept[-2], kept[-1]]
        middle = median([e.val for e in latest])
        if self.best is None:
            self._worst = middle
        elif middle > self.level - self._min_delta * abs(self.level):
            return False
        self.level = middle
        self.best = min(latest, key=lambda e: e.val)
        self.since = 2 - latest.index(self.best)
        self.curve = RunCurve(_KEPT)
        for e in self.since_best():
            self.curve.push(e.step, e.val)
        return True

    def latest(self, count: int) -> list[Evaluation]:
        """The last evaluations, at most 48."""
        return list(self._kept)[-count:] if count > 0 else []

    def since_best(self) -> list[Evaluation]:
        """Those after the best, at most the last 48."""
        return self.latest(self.since)

    def descent(self) -> float:
        """How far the level has come down since the first three."""
        return self._worst - self.level

    def flicker(self) -> tuple[float, float]:
        """Noise of the validation losses, and of the training losses with them [loss]."""
        return flicker([e.val for e in self._kept]), flicker([e.train for e in self._kept])

    def luck(self) -> float:
        """How far below its true level the best of so many is to be expected [sigmas of noise].

        The smallest of n / 3 medians of three: 0.67 sqrt(2 ln(n / 3)).
        """
        return 0.67 * math.sqrt(2.0 * math.log(max(self._count / 3.0, 1.0)))

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        best = self.best
        return {
            "kept": [[e.step, e.val, e.train] for e in self._kept],
            "best": [best.step, best.val, best.train] if best is not None else None,
            "levels": [self._worst, self.level],
            "since": [self.since, self._count],
            "curve": self.curve.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._kept = deque((Evaluation(*e) for e in state["kept"]), maxlen=_KEPT)
        self.best = Evaluation(*state["best"]) if state["best"] else None
        self._worst, self.level = state["levels"]
        self.since, self._count = state["since"]
        self.curve.restore(state["curve"])
