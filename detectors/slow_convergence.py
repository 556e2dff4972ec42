"""A loss that falls clearly behind what its own earlier curve, or a reference run, foretold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.falling_behind import BehindRule, falling_behind, times
from lossguard.detectors.grain import Grain
from lossguard.detectors.power_law import Forecast
from lossguard.detectors.reference_run import ReferenceRun
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.run_curve import RunCurve
from lossguard.detectors.streaming import median
from lossguard.detectors.thresholds import require_above, require_at_least

_BLOCKS = 96
_EVERY = 16
"""The curve is judged whenever the run has grown by one part in that many."""
_TRUST = 8
"""Forecasts that must have been right before one is believed: young curves have kinks."""
_TRUST_EPOCHS = 4
_PAST = 8
"""Earlier episodes of which the stretch is left out of later fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowConvergenceConfig:
    """Thresholds. Sources in the docstring of ``SlowConvergence``."""

    fitted: float = 0.6
    """Share of the run, from its start, that the power law is fitted to [0.3 <= x <= 0.8]."""
    min_samples: int = 1024
    """Losses before the first verdict [observations, >= 24]."""
    min_samples_epochs: int = 24
    """The same where each row of a log is an epoch [observations, >= 24]."""
    sigmas: float = 4.0
    """Blocks above the forecast, in units of their noise and the error of the fit [> 0]."""
    shortfall: float = 0.6
    """Share of the progress foretold that did not come [0 < x <= 1]."""
    material: float = 0.01
    """Distance from the forecast, relative to the level [> 0]."""
    reference: tuple[tuple[float, float], ...] = ()
    """Step and loss of a reference run, by step; empty: there is none."""
    behind: float = 0.1
    """Distance above the reference, relative to how far that had come down [0 < x < 1]."""

    def __post_init__(self) -> None:
        if not 0.3 <= self.fitted <= 0.8:
            raise ValueError(f"fitted must be in [0.3, 0.8], got {self.fitted}")
        require_at_least(self, min_samples=24, min_samples_epochs=24)
        require_above(self, sigmas=0)
        if not 0.0 < self.shortfall <= 1.0:
            raise ValueError(f"shortfall must be in (0, 1], got {self.shortfall}")
        if not self.material > 0.0:
            raise ValueError(f"material must be > 0, got {self.material}")
        if not 0.0 < self.behind < 1.0:
            raise ValueError(f"behind must be in (0, 1), got {self.behind}")
        steps = [step for step, _ in self.reference]
        if steps != sorted(set(steps)) or len(steps) == 1:
            raise ValueError("reference must hold two or more points, by rising step")
        if not all(math.isfinite(loss) for _, loss in self.reference):
            raise ValueError("reference must hold finite losses")


class SlowConvergence(EpisodicDetector):
    """The loss still falls, or stands, but clearly behind what was to be expected.

    *Behind its own curve*: c + a (t + t0)^-b is fitted (``power_law``) to the first ``fitted`` of
    the run, in blocks (``RunCurve``). Of the last blocks, an eighth of all and at least three,
    four of five lie above the slowest curve that fits as well; their median is above it by
    ``sigmas`` standard errors, by ``material`` of the level and by ``shortfall`` of the progress
    foretold since the fit (``falling_behind``). Two judgements in a row make an ``info`` and no
    more: a curve that reaches its floor at once looks the same. Nothing is said when no power
    law fits within twice the noise, before eight forecasts (four in a log of epochs) were right,
    or when the loss has risen: that is divergence.

    *Behind a reference run* (where one is given): of the last blocks, an eighth of all, four of
    five lie above it, their median by more than ``behind`` of its descent and by three standard
    errors, and it had come as far in three quarters of the steps: a warning. Not in its first
    tenth.

    A learning rate that decays lets a loss fall faster than the power law: no trouble. Blocks of
    earlier episodes are left out of later fits. The episode ends when three blocks in a row have
    made up for half of the distance. The onset is dated by ``change_point`` to a block. Power
    laws as learning curves: Hestness et al. 2017; Kaplan et al. 2020.
    """

    symptom: ClassVar[Symptom] = Symptom.SLOW_CONVERGENCE
    inputs: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, config: SlowConvergenceConfig | None = None) -> None:
        super().__init__()
        self.config = config or SlowConvergenceConfig()
        c = self.config
        self._rule = BehindRule(c.fitted, c.sigmas, c.shortfall, c.material)
        self._reference = ReferenceRun(self.config.reference)
        self._curve = RunCurve(_BLOCKS)
        self._next = 0
        self._grain = Grain()
        self._hits = 0
        self._trust = 0
        self._forecast: Forecast | None = None
        self._height = 0.0
        self._past: list[list[int]] = []

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Loss, validation loss and epoch, where one of the losses is finite."""
        loss, val = observation.get("loss"), observation.get("val_loss")
        if loss is None or not math.isfinite(loss):
            return None if val is None else (None, val, None)
        return loss, val, observation.get("epoch")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one row."""
        loss, val, epoch = inputs
        self._grain.push(loss, val, epoch)
        curve = self._curve
        if loss is None or not curve.push(step, loss):
            return None
        if self._episode is not None:
            return self._follow(step)
        if self.config.reference:
            found = self._against_reference(step)
            if found is not None:
                return found
        if curve.count < self._next:
            return None
        self._next = curve.count + curve.count // _EVERY
        config = self.config
        least = config.min_samples_epochs if self._grain.epochs else config.min_samples
        return self._against_itself(step) if curve.count >= least // 2 else None

    @property
    def _trusted(self) -> int:
        return _TRUST_EPOCHS if self._grain.epochs else _TRUST

    def _usable(self) -> npt.NDArray[np.bool_]:
        """Which blocks lie in no earlier episode."""
        steps = np.array(self._curve.steps)
        usable = np.ones(len(steps), np.bool_)
        for first, last in self._past:
            usable &= (steps < first) | (steps > last)
        return usable

    def _against_itself(self, step: int) -> Finding | None:
        """Open an episode if the run is behind the curve fitted to its earlier part."""
        curve = self._curve
        seen = falling_behind(curve.medians, curve.size, self._usable(), self._rule)
        if seen is None:
            return None
        if not seen.fits:
            self._hits = self._trust = 0
            return None
        if not seen.behind:
            self._hits = 0
            self._trust = min(self._trust + seen.right, self._trusted)
            return None
        if self._trust < self._trusted:
            return None
        self._hits += 1
        self._next = curve.count + curve.count // (2 * _EVERY)
        if self._hits < 2:
            return None
        self._forecast = seen.forecast
        return self._found(step, seen.first, Severity.INFO, seen.now, seen.expected)

    def _against_reference(self, step: int) -> Finding | None:
        """Open an episode if the run is behind the reference."""
        curve, reference = self._curve, self._reference
        first = reference.behind_since(curve.steps, curve.medians, self.config.behind)
        there = reference.at(step)
        if first is None or there is None:
            return None
        self._forecast = None
        return self._found(step, first, Severity.WARNING, curve.medians[-1], there)

    def _found(
        self, step: int, first: int, severity: Severity, now: float, foretold: float
    ) -> Finding | None:
        onset = self._curve.steps[max(0, first - 1)]
        self._height = now - foretold
        least = self.config.material * abs(now)
        score = self._height / least if least > 0.0 else 1.0
        by = "its earlier curve" if self._forecast is not None else "the reference run"
        text = f"the loss is {now:.4g} where {by} foretells {foretold:.4g}"
        evidence = {"loss": now, "expected": foretold}
        return self.hit(step, severity, score, text, onset=onset, evidence=evidence)

    def _expected(self, i: int) -> float | None:
        """What was to be expected of a block."""
        if self._forecast is None:
            return self._reference.at(self._curve.steps[i])
        return float(self._forecast.upper(times(i + 1, self._curve.size)[-1:])[0])

    def _follow(self, step: int) -> Finding | None:
        """Let the episode go on, or end it."""
        episode, values = self._episode, self._curve.medians
        assert episode is not None
        count = len(values)
        expected = [self._expected(i) for i in range(count - 3, count)]
        above = [
            value - there
            for value, there in zip(values[-3:], expected, strict=True)
            if there is not None
        ]
        if above and max(above) > 0.5 * self._height:
            episode.hit(step, episode.score)
            return None
        now = median(values[-3:])
        text = f"the loss is at {now:.4g}, where it was expected to be"
        self._past = [*self._past, [episode.onset_step, step]][-_PAST:]
        self._forecast = None
        self._hits = 0
        return self.end(step, text)

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "curve": self._curve.state(),
            "grain": self._grain.state(),
            "next": self._next,
            "hits": [self._hits, self._trust],
            "forecast": self._forecast.state() if self._forecast else None,
            "height": self._height,
            "past": [list(stretch) for stretch in self._past],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._curve.restore(saved["curve"])
        self._grain.restore(saved["grain"])
        self._next = saved["next"]
        self._hits, self._trust = saved["hits"]
        self._forecast = Forecast.from_state(saved["forecast"]) if saved["forecast"] else None
        self._height = saved["height"]
        self._past = [list(stretch) for stretch in saved["past"]]
