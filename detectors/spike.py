"""What the spike of any metric has in common: hits, persistence, and the end of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Severity
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.level import Level

_VETOED = 1 | 2 | 4 | 8
"""The wire's SKIP_NONFINITE, SKIP_GRAD_NORM, SKIP_LOSS and SKIP_COMMAND."""
RECENT = 5
"""Observations over which persistence is judged."""
_HIT, _COUNTS, _SKIPPED = 1, 2, 4
"""What is remembered of a recent observation."""


class SpikeDetector(EpisodicDetector):
    """A level of accepted values, and an episode of hits that stay out of it.

    Two hits in a row or three of five persist; one more where the guard skipped the updates, for
    then waiting costs nothing and a poisoned batch passes by. ``calm_steps`` normal values in a
    row end an episode; ``readmit`` hits in a row become the level, which ends it too, those whose
    update was skipped counting half: bad data passes by.
    """

    noun: ClassVar[str]
    """What the metric is called in a sentence."""

    def __init__(self, level: Level, *, calm_steps: int, readmit: int) -> None:
        super().__init__()
        self._level = level
        self._calm_steps = calm_steps
        self._readmit = readmit
        self._held: list[float] = []
        self._spared = 0
        self._recent: deque[int] = deque(maxlen=RECENT)

    @abstractmethod
    def message(self, value: float) -> str:
        """A hit in words."""

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "level": self._level.state(),
            "held": list(self._held),
            "spared": self._spared,
            "recent": list(self._recent),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._level.restore(saved["level"])
        self._held = list(saved["held"])
        self._spared = saved["spared"]
        self._recent = deque(saved["recent"], maxlen=RECENT)

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._let_go()
        self._recent.clear()

    def _let_go(self) -> None:
        """The run of hits is over."""
        self._held.clear()
        self._spared = 0

    def note(self, counts: bool, skipped: float | None) -> bool:
        """Remember a hit, and whether it counts towards persistence; True if it was vetoed."""
        vetoed = skipped is not None and math.isfinite(skipped) and bool(int(skipped) & _VETOED)
        self._spared += vetoed
        self._recent.append(_HIT | _COUNTS * counts | _SKIPPED * (counts and vetoed))
        return vetoed

    def persists(self) -> bool:
        """Whether there have been enough hits that count to act on."""
        counted = [hit & _COUNTS for hit in self._recent]
        need = 3 if any(hit & _SKIPPED for hit in self._recent) else 2
        in_a_row = len(counted) >= need and all(counted[-need:])
        return in_a_row or sum(map(bool, counted)) > need

    def is_alone(self) -> bool:
        """Whether the latest hit is the only one of the recent observations."""
        return sum(map(bool, self._recent)) <= 1

    def normal(self, step: int, value: float) -> Finding | None:
        """Take in a value that is no hit; the end of the episode when it is over."""
        self._recent.append(0)
        self._let_go()
        self._level.accept(value)
        if self._episode is None:
            return None
        message = f"{self.noun} is back at {self._level.median():.4g}"
        return self.calm(step, self._calm_steps, message, self._evidence())

    def above(
        self, step: int, value: float, score: float, severity: Severity, onset: int | None = None
    ) -> Finding | None:
        """Take in a hit: begins an episode, escalates it, or ends it by becoming the level."""
        self._held.append(value)
        episode = self._episode
        if episode is not None and 2 * len(self._held) - self._spared >= 2 * self._readmit:
            episode.hit(step, score)
            self._level.rebase(self._held)
            self._let_go()
            self._recent.clear()
            message = f"{self.noun} settled at {self._level.median():.4g}"
            return self.end(step, message, self._evidence())
        message = self.message(value if episode is None else max(self._held))
        return self.hit(step, severity, score, message, onset=onset, evidence=self._evidence())

    def escalate(self, step: int, severity: Severity, message: str) -> Finding | None:
        """The open episode becomes that severe; None when it is, or when there is none."""
        episode = self._episode
        if episode is None or severity.rank <= episode.severity.rank:
            return None
        episode.severity = severity
        return self._finding(step, message, self._evidence())

    def _evidence(self) -> dict[str, float]:
        middle = self._level.median() if self._level.count else 0.0
        return {"level": middle, "hits": float(sum(map(bool, self._recent)))}
