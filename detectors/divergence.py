"""A loss that stays far above where it was, keeps rising, or rises from the very start."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.change_point import onset_index
from lossguard.detectors.drift import Drift, DriftRule
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.initial_rise import InitialRise
from lossguard.detectors.level import Level
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.rise import Rise
from lossguard.detectors.schedule import Restarts
from lossguard.detectors.streaming import noise
from lossguard.detectors.sustained_rise import SustainedRise, SustainedRule
from lossguard.detectors.thresholds import require_above, require_at_least

_BUFFER = 320
"""Latest losses kept to date an onset in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceConfig:
    """Thresholds. Sources in the docstring of ``Divergence``."""

    window: int = 32
    """Accepted losses that give the level [observations, >= 8]."""
    tail: int = 512
    """Accepted losses that give the upper tail [observations, >= 64]."""
    min_samples: int = 2
    """Losses before the first verdict against the level [observations, >= 2]."""
    young: float = 8.0
    """The deviation is multiplied by 1 + (young / n)^2 after n losses [observations, >= 0]."""
    deviation: float = 8.0
    """Deviation of a loss that is far above its level [sigmas, > 0]."""
    min_rise: float = 0.25
    """Its rise relative to the level [> 0]."""
    min_rise_of_descent: float = 0.10
    """Its rise relative to the descent of the run so far [>= 0]."""
    stay: int = 5
    """Losses in a row that are far above and do not recover [observations, >= 3]."""
    settle: int = 256
    """Losses in a row that stay up until they become the new level [observations, >= 8]."""
    start_rise: float = 1.0
    """Rise above the initial loss, relative to it, that a run must not begin with [> 0]: a
    warm-up from a checkpoint of another task took 0.3."""
    start_steps: int = 256
    """How long a run is at its beginning [observations, >= 8]."""
    start_stay: int = 6
    """Losses in a row above that [observations, >= 3]."""
    block: int = 64
    """Losses in a block of the drift test [observations, >= 8]."""
    drift_sigmas: float = 4.0
    """Rise of a block median above the best one [standard errors, > 0]."""
    drift_rise: float = 0.03
    """The same, relative to the best [> 0]."""
    drift_limit: float = 24.0
    """Sum of the rises beyond that, at which the drift is reported [sigmas, > 0]."""
    drift_rise_of_descent: float = 0.02
    """The same, relative to the descent of the run so far [>= 0]."""
    drift_critical: float = 0.10
    """Rise, relative to the best, at which a drift is critical [>= drift_rise]."""
    calm_steps: int = 16
    """Normal losses in a row that end an episode [observations, >= 1]."""

    def __post_init__(self) -> None:
        require_at_least(
            self,
            window=8,
            tail=64,
            min_samples=2,
            young=0,
            min_rise_of_descent=0,
            stay=3,
            settle=8,
            start_steps=8,
            start_stay=3,
            block=8,
            drift_rise_of_descent=0,
            calm_steps=1,
        )
        require_above(self, deviation=0, min_rise=0, start_rise=0, drift_sigmas=0, drift_rise=0)
        if self.drift_critical < self.drift_rise:
            raise ValueError(
                f"drift_critical {self.drift_critical} must be >= drift_rise {self.drift_rise}"
            )


class Divergence(EpisodicDetector):
    """Three ways in which a loss goes up and does not come back.

    It *stays* up for 5 losses in a row (``SustainedRise``), it *drifts* up by blocks of 64
    (``Drift``), or it *rises from the start* (``InitialRise``). All critical, but for a
    drift by a few per cent, which a change of data brings too: a warning. Deviations are in
    sigmas of the recent noise, rises relative to the level and to the descent of the run.

    Nothing at all on 192,052 observations of 72 healthy public runs
    (tests/contract/test_detectors_on_real_logs.py). The onset is dated by Page's CUSUM read
    backwards (``change_point``), on the early side. Within ``grace`` observations of a warm
    restart of the learning rate only a rise of half the descent counts, and drifts are measured
    from there.
    """

    symptom: ClassVar[Symptom] = Symptom.DIVERGENCE
    inputs: ClassVar[tuple[str, ...]] = ("loss",)
    grace: ClassVar[int] = 128

    def __init__(self, config: DivergenceConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or DivergenceConfig()
        self._initial = InitialRise(c.start_rise, c.start_stay, c.start_steps)
        self._sustained = SustainedRise(
            SustainedRule(
                min_samples=c.min_samples,
                young=c.young,
                deviation=c.deviation,
                of_level=c.min_rise,
                of_descent=c.min_rise_of_descent,
                stay=c.stay,
                settle=c.settle,
            ),
            Level(c.window, c.tail),
        )
        self._drift = Drift(
            DriftRule(
                block=c.block,
                sigmas=c.drift_sigmas,
                of_level=c.drift_rise,
                of_descent=c.drift_rise_of_descent,
                limit=c.drift_limit,
                of_young=c.start_rise,
                severe=c.drift_critical / c.drift_rise,
            )
        )
        self._restarts = Restarts(self.grace)
        self._buffer: deque[tuple[int, float]] = deque(maxlen=_BUFFER)

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Loss and learning rate, where there is a finite loss."""
        loss = observation.get("loss")
        if loss is None or not math.isfinite(loss):
            return None
        return loss, observation.get("lr")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one finite loss."""
        loss, lr = inputs
        assert loss is not None
        of_descent = 0.5 if self._restarts.watch(lr) else None
        if self._restarts.just_now:
            self._drift.clear()
        self._buffer.append((step, loss))
        rises = [
            self._initial.push(step, loss),
            self._sustained.push(step, loss, of_descent),
            self._drift.push(step, loss, self._sustained.level, of_descent),
        ]
        found = [rise for rise in rises if rise is not None]
        if found:
            return self._up(step, max(found, key=lambda rise: rise.severe))
        return self._follow(step)

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "initial": self._initial.state(),
            "sustained": self._sustained.state(),
            "drift": self._drift.state(),
            "restarts": self._restarts.state(),
            "buffer": [list(entry) for entry in self._buffer],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._initial.restore(saved["initial"])
        self._sustained.restore(saved["sustained"])
        self._drift.restore(saved["drift"])
        self._restarts.restore(saved["restarts"])
        self._buffer = deque(((s, x) for s, x in saved["buffer"]), maxlen=_BUFFER)

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._sustained.drop()

    def _up(self, step: int, rise: Rise) -> Finding | None:
        times = f" ({rise.after / rise.before:.3g} times)" if rise.before > 0 else ""
        return self.hit(
            step,
            Severity.CRITICAL if rise.severe else Severity.WARNING,
            self._score(rise),
            f"the loss is {rise.after:.4g} where it was {rise.before:.4g}{times}: {rise.text}",
            onset=self._date(rise) if self._episode is None else None,
            evidence={"before": rise.before, "after": rise.after},
        )

    def _follow(self, step: int) -> Finding | None:
        episode = self._episode
        if episode is None:
            return None
        if self._initial.active or self._sustained.active:
            episode.hit(step, episode.score)
            return None
        if self._drift.active:
            episode.calm = 0
            return None
        level = self._sustained.level.median()
        message = f"the loss is at {level:.4g}"
        return self.calm(step, self.config.calm_steps, message, {"level": level})

    def _score(self, rise: Rise) -> float:
        size = (rise.after - rise.before) / max(abs(rise.before), 1e-12)
        return size / (self.config.min_rise if rise.severe else self.config.drift_rise)

    def _date(self, rise: Rise) -> int:
        """The step at which the rise began."""
        steps = [step for step, _ in self._buffer if step >= rise.since]
        values = [value for step, value in self._buffer if step >= rise.since]
        height = rise.after - rise.before
        sigma = noise(values[: max(16, len(values) // 2)])
        slack = min(sigma, 0.5 * height)
        return steps[onset_index(values, rise.before, slack, max(height, 4.0 * sigma))]
