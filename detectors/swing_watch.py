"""Telling swings from noise, at one time scale: against what the run itself had before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.change_point import onset_index
from lossguard.detectors.streaming import SortedWindow, median, noise
from lossguard.detectors.swings import PROGRESS, Stretch, stretch

_CALM = 32
"""Earlier windows whose amplitude is remembered."""
_USUAL = 0.4
"""Quantile of them that is usual."""
_UNLEARNT = 0.9
"""Level, relative to the first losses, of a run that has swung since its start."""


@dataclass(frozen=True, slots=True)
class SwingRule:
    """What ``OscillationConfig`` says about ``SwingWatch``."""

    window: int
    amplitude: float
    of_descent: float
    times: float
    regularity: float
    wild: float
    wild_of_descent: float
    wild_growth: float


@dataclass(frozen=True, slots=True)
class Swing:
    """Swings that are large, regular and come down to nothing."""

    since: int
    """The step where they began."""
    seen: Stretch
    """The window that holds them."""
    usual: float
    """Amplitude of earlier windows, relative to the level."""
    period: float
    """[values of this scale]; 0 where there is none."""


class SwingWatch:
    """Looks at the last ``window`` losses, four times a window.

    They swing when the amplitude of their residuals is at least ``amplitude`` of the level,
    ``of_descent`` of the descent of the run and ``times`` what was usual in earlier windows that
    did not swing (or twice ``amplitude``, in a run that has learnt nothing so far); when a share
    of ``regularity`` of their power lies around one frequency; and when neither the window nor
    the run before it shows progress of half the amplitude. Without a frequency of their own they
    swing where the amplitude is at least ``wild`` of the level, ``wild_of_descent`` of the descent,
    and ``wild_growth`` of the noise the run began with. Quantiles of a sorted window are an
    upper bound on the amplitude and end nearly every look early.
    """

    def __init__(self, rule: SwingRule) -> None:
        self._rule = rule
        self._recent: deque[tuple[int, float]] = deque(maxlen=2 * rule.window)
        self._calm = SortedWindow(_CALM)
        self.best = math.inf
        """Lowest level of a window that did not swing [loss]."""
        self.count = 0
        """Losses taken in."""
        self._fresh = 0

    def push(self, step: int, loss: float) -> bool:
        """Take in a loss; whether it is time to look."""
        self._recent.append((step, loss))
        self.count += 1
        self._fresh += 1
        return self.count % (self._rule.window // 4) == 0 and self.count >= self._rule.window

    def look(self, first: list[float], descent: float) -> Swing | None:
        """What the last window shows. ``first`` are the first losses of the run."""
        rule = self._rule
        losses = self._latest(rule.window)
        usual = self._calm.quantile(_USUAL) if len(self._calm) else None
        least = max(
            rule.amplitude * (1.0 if usual is not None else 2.0),
            rule.times * (usual or 0.0),
        )
        ordered = sorted(losses)
        cut = rule.window // 20
        rough = 0.5 * (ordered[-1 - cut] - ordered[cut])
        level = ordered[rule.window // 2]
        due = self._fresh >= rule.window
        bound = min(
            max(least * abs(level), rule.of_descent * descent), self._wild(level, descent, first)
        )
        if rough < bound and not due:
            return None
        seen = stretch(losses)
        if seen is None:
            return None
        swing = self._swing(seen, usual, least, median(first), descent)
        if swing is None and not seen.falls:
            least_wild = self._wild(seen.level, descent, first)
            if seen.amplitude * abs(seen.level) >= least_wild:
                swing = Swing(self._date(seen, usual or 0.0), seen, usual or 0.0, period=0.0)
        if swing is not None:
            self._fresh = 0
        elif due:
            self._calm.push(seen.amplitude)
            self.best = min(self.best, seen.level)
            self._fresh = 0
        return swing

    def calmed(self, amplitude: float) -> bool:
        """Whether half a window swings by less than half of ``amplitude``, or all of it falls."""
        self._fresh = 0
        half, whole = (stretch(self._latest(self._rule.window // n)) for n in (2, 1))
        if half is None or whole is None:
            return True
        return half.amplitude < 0.5 * amplitude or whole.falls

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "recent": [list(entry) for entry in self._recent],
            "calm": self._calm.values(),
            "best": self.best,
            "count": [self.count, self._fresh],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._recent = deque(((s, x) for s, x in state["recent"]), maxlen=self._recent.maxlen)
        self._calm = SortedWindow(_CALM, state["calm"])
        self.best = state["best"]
        self.count, self._fresh = state["count"]

    def _latest(self, count: int) -> list[float]:
        recent = list(self._recent)
        return [loss for _, loss in recent[-count:]]

    def _wild(self, level: float, descent: float, first: list[float]) -> float:
        """Least amplitude of swings without a frequency [loss]."""
        rule = self._rule
        descent = max(descent, median(first[:3]) - level)
        of_noise = rule.wild_growth * noise(first)
        return max(rule.wild * abs(level), rule.wild_of_descent * descent, of_noise)

    def _swing(
        self, seen: Stretch, usual: float | None, least: float, first: float, descent: float
    ) -> Swing | None:
        rule = self._rule
        if seen.amplitude < least or seen.amplitude * abs(seen.level) < rule.of_descent * descent:
            return None
        if usual is None and seen.level < _UNLEARNT * first:
            return None
        lost = (self.best - seen.level) / abs(seen.level)
        if seen.falls or (usual is not None and lost > PROGRESS * seen.amplitude):
            return None
        share, period = seen.regularity()
        if share < rule.regularity:
            return None
        since = self._date(seen, usual or 0.0)
        return Swing(since, seen, usual or 0.0, period)

    def _date(self, seen: Stretch, usual: float) -> int:
        """The step at which the deviations from the level grew."""
        entries = list(self._recent)
        level = seen.level
        away = [abs(loss - level) / abs(level) for _, loss in entries]
        between = 0.5 * (usual + seen.amplitude)
        return entries[onset_index(away, 0.0, 0.6 * between, seen.amplitude)][0]
