"""What the spike of any metric has in common: hits, persistence, and the end of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Severity
from lossguard.detectors.episode import Episode
from lossguard.detectors.level import Level
from lossguard.detectors.rewinding import RewindingDetector

_VETOED = 1 | 2 | 4 | 8
"""The wire's SKIP_NONFINITE, SKIP_GRAD_NORM, SKIP_LOSS and SKIP_COMMAND."""
RECENT = 5
"""Observations over which persistence is judged."""
_HIT, _COUNTS, _SKIPPED = 1, 2, 4
"""What is remembered of a recent observation."""


class SpikeDetector(RewindingDetector):
    """A level of accepted values, and an episode of hits that stay out of it.

    Two hits in a row or three of five persist; one more where the guard skipped the updates, for
    then waiting costs nothing and a poisoned batch passes by. ``calm_steps`` normal values in a
    row end an episode; ``readmit`` hits in a row become the level, which ends it too.
    """

    metric: ClassVar[str]
    noun: ClassVar[str]
    """What the metric is called in a sentence."""

    def __init__(self, level: Level, *, calm_steps: int, readmit: int) -> None:
        super().__init__()
        self._level = level
        self._calm_steps = calm_steps
        self._readmit = readmit
        self._held: list[float] = []
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._episode: Episode | None = None

    @abstractmethod
    def message(self, value: float) -> str:
        """A hit in words."""

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return {
            "level": self._level.state(),
            "held": list(self._held),
            "recent": list(self._recent),
            "episode": self._episode.state() if self._episode else None,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        self._level.restore(saved["level"])
        self._held = list(saved["held"])
        self._recent = deque(saved["recent"], maxlen=RECENT)
        self._episode = Episode.from_state(saved["episode"]) if saved["episode"] else None

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        self._episode = None
        self._held.clear()
        self._recent.clear()

    def note(self, counts: bool, skipped: float | None) -> bool:
        """Remember a hit, and whether it counts towards persistence; True if it was vetoed."""
        vetoed = skipped is not None and math.isfinite(skipped) and bool(int(skipped) & _VETOED)
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
        self._held.clear()
        self._level.accept(value)
        episode = self._episode
        if episode is None:
            return None
        episode.calm += 1
        if episode.calm < self._calm_steps:
            return None
        return self._end(step, f"{self.noun} is back at {self._level.median():.4g}")

    def hit(
        self, step: int, value: float, score: float, severity: Severity, onset: int | None = None
    ) -> Finding | None:
        """Take in a hit: begins an episode, escalates it, or ends it by becoming the level."""
        self._held.append(value)
        episode = self._episode
        if episode is None:
            self._episode = Episode(step if onset is None else onset, severity, step, score)
            return self.finding(step, severity, score, self.message(value))
        episode.hit(step, score)
        if len(self._held) >= self._readmit:
            self._level.rebase(self._held)
            self._held.clear()
            self._recent.clear()
            return self._end(step, f"{self.noun} settled at {self._level.median():.4g}")
        return self.escalate(step, score, severity, self.message(max(self._held)))

    def escalate(self, step: int, score: float, severity: Severity, message: str) -> Finding | None:
        """The open episode becomes that severe; None when it is, or when there is none."""
        episode = self._episode
        if episode is None or severity.rank <= episode.severity.rank:
            return None
        episode.severity = severity
        return self.finding(step, severity, score, message)

    def _end(self, step: int, message: str) -> Finding:
        episode = self._episode
        assert episode is not None
        finding = self.finding(step, episode.severity, episode.score, message, episode.last_hit)
        self._episode = None
        return finding

    def finding(
        self, step: int, severity: Severity, score: float, message: str, end: int | None = None
    ) -> Finding:
        """A finding of the open episode."""
        assert self._episode is not None
        middle = self._level.median() if self._level.count else 0.0
        return Finding(
            symptom=self.symptom,
            severity=severity,
            metric=self.metric,
            onset_step=self._episode.onset_step,
            detected_step=step,
            score=score,
            message=message,
            end_step=end,
            evidence={"level": middle, "hits": float(sum(map(bool, self._recent)))},
        )
