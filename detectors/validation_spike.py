"""A validation loss that leaves its robust trend upward for one or a few evaluations."""

from __future__ import annotations

import math
from typing import ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.level import Level
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.spike import SpikeDetector

_WINDOW = 7
_TAIL = 128
_MIN_SAMPLES = 3
_THRESHOLD = 8.0
"""Deviation that makes a hit [sigmas]."""
_YOUNG = 6.0
_MIN_RISE = 0.15
_MIN_RISE_OF_DESCENT = 0.05
_LARGE_RISE = 0.5
"""Rise of the level at which a single hit is worth a look, if it is so much of the descent."""
_LARGE_RISE_OF_DESCENT = 0.15
_CALM_EVALUATIONS = 2
_READMIT = 3


class ValidationSpike(SpikeDetector):
    """Flag a validation loss far above the last few; no more than a warning.

    A hit has a deviation above 8 * (1 + q + q^2) sigmas, q = 6 / n after n evaluations (see
    ``Level``), and is higher by 15 % of the level and 5 % of the descent. Alone and below half
    the level it is worth a line. Three hits in a row are the new level: a loss that rises and
    stays is ``overfitting`` or ``divergence``. Thresholds as for the training loss, but stricter,
    for there are few evaluations to learn the noise from.
    """

    symptom: ClassVar[Symptom] = Symptom.LOSS_SPIKE
    inputs: ClassVar[tuple[str, ...]] = ("val_loss",)
    noun: ClassVar[str] = "the validation loss"

    def __init__(self) -> None:
        level = Level(_WINDOW, _TAIL, noise_window=_TAIL // 4)
        super().__init__(level, calm_steps=_CALM_EVALUATIONS, readmit=_READMIT)

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """The validation loss, where there is a finite one."""
        loss = observation.values.get("val_loss")
        if loss is None or not math.isfinite(loss):
            return None
        return (loss,)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one evaluation."""
        (loss,) = inputs
        assert loss is not None
        level = self._level
        if level.count < _MIN_SAMPLES:
            level.accept(loss)
            return None
        young = _YOUNG / level.count
        score = level.deviation(loss) / (_THRESHOLD * (1.0 + young + young * young))
        if score <= 1.0 or not level.matters(loss, _MIN_RISE, _MIN_RISE_OF_DESCENT):
            return self.normal(step, loss)
        large = level.matters(loss, _LARGE_RISE, _LARGE_RISE_OF_DESCENT)
        self.note(large, None)
        severity = Severity.WARNING if large or not self.is_alone() else Severity.INFO
        return self.above(step, loss, score, severity)

    def message(self, value: float) -> str:
        """A hit in words."""
        return f"the validation loss is {value:.4g} where {self._level.median():.4g} is usual"
