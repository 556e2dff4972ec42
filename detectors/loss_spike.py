"""A loss that leaves its robust trend upward: in training, or at an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lossguard.detectors.base import Detector, Finding, Observation, Symptom
from lossguard.detectors.training_spike import LossSpikeConfig, TrainingSpike
from lossguard.detectors.validation_spike import ValidationSpike


class LossSpike(Detector):
    """``TrainingSpike`` and ``ValidationSpike``, which have a step's first word in this order.

    Formulas, thresholds and sources stand there. Only the training loss acts and has a bound.
    """

    symptom: ClassVar[Symptom] = Symptom.LOSS_SPIKE
    inputs: ClassVar[tuple[str, ...]] = ("loss", "val_loss")

    def __init__(self, config: LossSpikeConfig | None = None) -> None:
        self._training = TrainingSpike(config)
        self._validation = ValidationSpike()
        self.config = self._training.config

    def update(self, observation: Observation) -> Finding | None:
        """Take in one step."""
        training = self._training.update(observation)
        validation = self._validation.update(observation)
        return validation if training is None else training

    def bounds(self) -> Mapping[str, float]:
        """The loss from which an update is better skipped."""
        return self._training.bounds()

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return {"training": self._training.state(), "validation": self._validation.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the detector that ``state`` came from."""
        self._training.restore(state["training"])
        self._validation.restore(state["validation"])

    def rewind(self, step: int) -> None:
        """Forget the observations of steps after ``step``."""
        self._training.rewind(step)
        self._validation.rewind(step)
