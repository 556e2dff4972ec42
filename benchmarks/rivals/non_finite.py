"""Rules for numbers that are not finite."""

from __future__ import annotations

import math

from benchmarks.rivals.base import UPSET, Rival, not_finite
from lossguard.detectors import Observation


class NanCheck(Rival):
    """``isfinite(loss) and isfinite(grad_norm)``, as in torchtitan's ``trainer.py``."""

    def update(self, observation: Observation) -> str | None:
        return UPSET if not_finite(observation) else None


class ComposerNan(Rival):
    """Composer's ``nan_monitor``: NaN in the local loss raises; Inf passes."""

    def update(self, observation: Observation) -> str | None:
        return UPSET if math.isnan(observation.values.get("loss", 0.0)) else None


class HfNanFilter(Rival):
    """Hugging Face Trainer's ``logging_nan_inf_filter`` (on): the logged loss of a step with NaN
    is replaced by the running mean, and nobody is told; the update is applied. It never alarms.
    """

    def update(self, observation: Observation) -> str | None:
        return None


class DeepSpeedScale(Rival):
    """DeepSpeed's ``loss_scaler.py``: raises once the dynamic loss scale is at its minimum, 1."""

    def update(self, observation: Observation) -> str | None:
        return UPSET if observation.values.get("loss_scale", 2.0) <= 1.0 else None
