"""Streaming detectors: one symptom each, observations in, findings out.

``default_detectors()`` gives a fresh set for one run; ``CATALOGUE`` names every detector there
is. What a detector is stands in ``base``; thresholds, formulas and sources stand in the
docstrings of the detectors.
"""

from __future__ import annotations

from lossguard.detectors.base import (
    Detector,
    Family,
    Finding,
    Observation,
    Severity,
    Symptom,
)
from lossguard.detectors.divergence import Divergence, DivergenceConfig
from lossguard.detectors.grad_spike import GradSpike, GradSpikeConfig
from lossguard.detectors.loss_spike import LossSpike, LossSpikeConfig
from lossguard.detectors.nonfinite import Nonfinite, NonfiniteConfig

CATALOGUE: dict[str, type[Detector]] = {
    "nonfinite": Nonfinite,
    "loss_spike": LossSpike,
    "grad_spike": GradSpike,
    "divergence": Divergence,
}
"""Every detector by the name of its symptom, in the order in which they are asked."""


def default_detectors() -> list[Detector]:
    """A fresh detector of every kind, with its default thresholds."""
    return [detector() for detector in CATALOGUE.values()]


__all__ = [
    "CATALOGUE",
    "default_detectors",
    "Detector",
    "Family",
    "Finding",
    "Observation",
    "Severity",
    "Symptom",
    "Divergence",
    "DivergenceConfig",
    "GradSpike",
    "GradSpikeConfig",
    "LossSpike",
    "LossSpikeConfig",
    "Nonfinite",
    "NonfiniteConfig",
]
