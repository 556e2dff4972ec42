"""The rules that other systems watch a run with, re-implemented from their sources."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.rivals.base import NO_DECREASE, PROGRESS, UPSET, VALIDATION, Rival
from benchmarks.rivals.gradient import AxlearnSkip, Rlwatch, StabilityGuard
from benchmarks.rivals.non_finite import ComposerNan, DeepSpeedScale, HfNanFilter, NanCheck
from benchmarks.rivals.ratio import (
    Guarftrain,
    KillLossSpike,
    LightningSpike,
    MegatronTenfold,
    MetaseqEwm,
    ThreeTimesMean,
)
from benchmarks.rivals.robust import BlockDrift, RobustResidual, Sdcguard
from benchmarks.rivals.sigma import LlmcOutlier, OlmoSkipStep, ZClip
from benchmarks.rivals.stopping import DlibSlope, LossNotDecreasing, LossWatchDog
from benchmarks.rivals.validation import AutoTrainer, LightningEarlyStopping, Overfit

RIVALS: dict[str, Callable[[], Rival]] = {
    "NaN check": NanCheck,
    "Composer NaN monitor": ComposerNan,
    "HF NaN filter": HfNanFilter,
    "DeepSpeed scale at minimum": DeepSpeedScale,
    "3x mean": ThreeTimesMean,
    "Lightning SpikeDetection": LightningSpike,
    "Lightning EarlyStopping": LightningEarlyStopping,
    "LLM-Foundry KillLossSpike": KillLossSpike,
    "Megatron NaN and 10x": MegatronTenfold,
    "OLMo-core 6 sigma": OlmoSkipStep,
    "llm.c z > 3": LlmcOutlier,
    "metaseq EWM 1.3": MetaseqEwm,
    "ZClip z > 2.5": ZClip,
    "axlearn 20x EMA": AxlearnSkip,
    "axolotl LossWatchDog": LossWatchDog,
    "dlib slope": DlibSlope,
    "SageMaker LossNotDecreasing": LossNotDecreasing,
    "SageMaker Overfit": Overfit,
    "AutoTrainer": AutoTrainer,
    "stabilityguard": StabilityGuard,
    "sdcguard observe": Sdcguard,
    "rlwatch": Rlwatch,
    "guarftrain": Guarftrain,
    "robust residual, 1 hit": RobustResidual,
    "robust residual, 2 of 5": lambda: RobustResidual(hits=2),
    "block drift": BlockDrift,
}
"""Every rival by name, each a fresh one for one run."""

__all__ = ["NO_DECREASE", "PROGRESS", "RIVALS", "Rival", "UPSET", "VALIDATION"]
