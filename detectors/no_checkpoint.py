"""Nothing saved for longer than the user can afford to lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.rewinding import Inputs

_IN_A_ROW = 2
"""Observations that are too old before a word is said: one absurd value says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoCheckpointConfig:
    """Thresholds: what a user can afford to lose."""

    max_age_s: float = 7_200.0
    """Age of what was last saved that is worth a line [s, > 0]: two hours."""
    warn_age_s: float = 21_600.0
    """The same that is worth a look [s, >= max_age_s]: six hours."""

    def __post_init__(self) -> None:
        if not 0.0 < self.max_age_s < math.inf:
            raise ValueError(f"max_age_s must be > 0 and finite, got {self.max_age_s}")
        if not self.warn_age_s >= self.max_age_s:
            raise ValueError(f"warn_age_s {self.warn_age_s} must be >= max_age_s {self.max_age_s}")


class NoCheckpoint(EpisodicDetector):
    """Flag a run of which nothing was saved for long.

    checkpoint_age > 2 h, seen twice in a row, is a line, > 6 h a warning; the next save ends it.
    The time comes with the observations: a run that makes no steps says nothing here.
    """

    symptom: ClassVar[Symptom] = Symptom.NO_CHECKPOINT
    inputs: ClassVar[tuple[str, ...]] = ("checkpoint_age",)

    def __init__(self, config: NoCheckpointConfig | None = None) -> None:
        super().__init__()
        self.config = config or NoCheckpointConfig()
        self._row = 0
        self._since = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """The age, where there is one."""
        age = observation.values.get("checkpoint_age")
        return None if age is None or not math.isfinite(age) else (age,)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one age [s]."""
        (age,) = inputs
        assert age is not None
        config = self.config
        if age <= config.max_age_s:
            self._row = 0
            return self.end(step, "the run has been saved")
        self._row += 1
        if self._row == 1:
            self._since = step
        if self._row < _IN_A_ROW:
            return None
        return self.hit(
            step,
            Severity.WARNING if age > config.warn_age_s else Severity.INFO,
            age / config.max_age_s,
            f"nothing was saved for {age / 3600.0:.3g} hours",
            onset=self._since,
            evidence={"age_s": age},
        )

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {"row": [self._row, self._since]}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._row, self._since = saved["row"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._row = 0
