"""An open episode: from the first anomalous step to the last, with its severity so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lossguard.detectors.base import Severity


@dataclass(slots=True)
class Episode:
    """What a detector remembers of the trouble it has reported and that is not over."""

    onset_step: int
    severity: Severity
    last_hit: int
    """The newest anomalous step."""
    score: float
    """The largest so far."""
    calm: int = 0
    """Normal observations in a row since the last hit."""

    def hit(self, step: int, score: float) -> None:
        """Another anomalous step."""
        self.last_hit = step
        self.score = max(self.score, score)
        self.calm = 0

    def state(self) -> list[Any]:
        """Plain data for ``from_state``."""
        return [self.onset_step, self.severity.value, self.last_hit, self.score, self.calm]

    @classmethod
    def from_state(cls, state: list[Any]) -> Episode:
        """The episode that ``state`` came from."""
        onset_step, severity, last_hit, score, calm = state
        return cls(onset_step, Severity(severity), last_hit, score, calm)
