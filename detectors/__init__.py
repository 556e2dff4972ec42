"""Streaming detectors: one symptom each, observations in, findings out.

``default_detectors()`` gives a fresh set for one run; ``CATALOGUE`` names every detector there
is. What a detector is stands in ``base``; thresholds, formulas and sources stand in the
docstrings of the detectors.
"""

from __future__ import annotations

from lossguard.detectors.activation_drift import ActivationDrift, ActivationDriftConfig
from lossguard.detectors.bad_batch import BadBatch, BadBatchConfig
from lossguard.detectors.base import (
    AMONG_RANKS,
    BY_THE_CLOCK,
    Detector,
    Family,
    Finding,
    Observation,
    Severity,
    Symptom,
)
from lossguard.detectors.clipping import Clipping, ClippingConfig
from lossguard.detectors.data_starved import DataStarved, DataStarvedConfig
from lossguard.detectors.dead_units import DeadUnits, DeadUnitsConfig
from lossguard.detectors.divergence import Divergence, DivergenceConfig
from lossguard.detectors.eval_mode_mismatch import EvalModeMismatch, EvalModeMismatchConfig
from lossguard.detectors.exploding_gradient import ExplodingGradient, ExplodingGradientConfig
from lossguard.detectors.grad_spike import GradSpike, GradSpikeConfig
from lossguard.detectors.loss_scale import LossScale, LossScaleConfig
from lossguard.detectors.loss_spike import LossSpike
from lossguard.detectors.low_gpu_utilization import LowGpuUtilization, LowGpuUtilizationConfig
from lossguard.detectors.lr_jump import LrJump, LrJumpConfig
from lossguard.detectors.memory_growth import MemoryGrowth, MemoryGrowthConfig
from lossguard.detectors.no_checkpoint import NoCheckpoint, NoCheckpointConfig
from lossguard.detectors.nonfinite import Nonfinite, NonfiniteConfig
from lossguard.detectors.optimizer_state import OptimizerState, OptimizerStateConfig
from lossguard.detectors.oscillation import Oscillation, OscillationConfig
from lossguard.detectors.output_collapse import OutputCollapse, OutputCollapseConfig
from lossguard.detectors.overfitting import Overfitting, OverfittingConfig
from lossguard.detectors.plateau import Plateau, PlateauConfig
from lossguard.detectors.rank_desync import RankDesync, RankDesyncConfig
from lossguard.detectors.slow_convergence import SlowConvergence, SlowConvergenceConfig
from lossguard.detectors.straggler import Straggler, StragglerConfig
from lossguard.detectors.training_spike import LossSpikeConfig
from lossguard.detectors.vanishing_gradient import VanishingGradient, VanishingGradientConfig
from lossguard.detectors.weight_growth import WeightGrowth, WeightGrowthConfig

CATALOGUE: dict[str, type[Detector]] = {
    "nonfinite": Nonfinite,
    "loss_spike": LossSpike,
    "grad_spike": GradSpike,
    "divergence": Divergence,
    "oscillation": Oscillation,
    "plateau": Plateau,
    "slow_convergence": SlowConvergence,
    "overfitting": Overfitting,
    "vanishing_gradient": VanishingGradient,
    "exploding_gradient": ExplodingGradient,
    "dead_units": DeadUnits,
    "activation_drift": ActivationDrift,
    "weight_growth": WeightGrowth,
    "optimizer_state": OptimizerState,
    "lr_jump": LrJump,
    "loss_scale": LossScale,
    "clipping": Clipping,
    "bad_batch": BadBatch,
    "output_collapse": OutputCollapse,
    "eval_mode_mismatch": EvalModeMismatch,
    "data_starved": DataStarved,
    "low_gpu_utilization": LowGpuUtilization,
    "memory_growth": MemoryGrowth,
    "no_checkpoint": NoCheckpoint,
    "straggler": Straggler,
    "rank_desync": RankDesync,
}
"""Every detector by the name of its symptom, in the order in which they are asked."""


def default_detectors() -> list[Detector]:
    """A fresh detector of every kind, with its default thresholds."""
    return [detector() for detector in CATALOGUE.values()]


__all__ = [
    "AMONG_RANKS",
    "BY_THE_CLOCK",
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
    "Oscillation",
    "OscillationConfig",
    "Plateau",
    "PlateauConfig",
    "SlowConvergence",
    "SlowConvergenceConfig",
    "Overfitting",
    "OverfittingConfig",
    "GradSpike",
    "GradSpikeConfig",
    "LossSpike",
    "LossSpikeConfig",
    "Nonfinite",
    "NonfiniteConfig",
    "ActivationDrift",
    "ActivationDriftConfig",
    "DeadUnits",
    "DeadUnitsConfig",
    "ExplodingGradient",
    "ExplodingGradientConfig",
    "OptimizerState",
    "OptimizerStateConfig",
    "VanishingGradient",
    "VanishingGradientConfig",
    "WeightGrowth",
    "WeightGrowthConfig",
    "LrJump",
    "LrJumpConfig",
    "LossScale",
    "LossScaleConfig",
    "Clipping",
    "ClippingConfig",
    "BadBatch",
    "BadBatchConfig",
    "OutputCollapse",
    "OutputCollapseConfig",
    "EvalModeMismatch",
    "EvalModeMismatchConfig",
    "DataStarved",
    "DataStarvedConfig",
    "LowGpuUtilization",
    "LowGpuUtilizationConfig",
    "MemoryGrowth",
    "MemoryGrowthConfig",
    "NoCheckpoint",
    "NoCheckpointConfig",
    "Straggler",
    "StragglerConfig",
    "RankDesync",
    "RankDesyncConfig",
]
