"""How to make a healthy run show each symptom: what the contract tests hurt a run with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lossguard.detectors import Observation, Symptom
from tests.contract import curve_troubles, layer_troubles, rank_troubles
from tests.support.healthy_run import scaled, with_values


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One symptom, provoked step by step in a run that is healthy otherwise."""

    hurt: Callable[[Observation, int], Observation]
    """The observation at the n-th step of the trouble, made from the healthy one."""
    steps: int
    """Trouble that lasts so long is surely found [steps]."""
    latest: int
    """It is found at most so many steps after it began [steps]."""
    early: int = 3
    """Its onset is dated at most so many steps too early [steps]."""
    late: int = 0
    """Its onset is dated at most so many steps too late [steps]."""
    calm: int = 60
    """Healthy steps after which the episode is over [steps]."""
    warm_up: int = 600
    """Healthy steps that it is told from [steps]."""


TROUBLES: dict[Symptom, Trouble] = {
    Symptom.NONFINITE: Trouble(
        hurt=lambda o, n: with_values(o, loss=math.nan),
        steps=1,
        latest=0,
        early=0,
    ),
    Symptom.LOSS_SPIKE: Trouble(hurt=lambda o, n: scaled(o, loss=5.0), steps=1, latest=0),
    Symptom.GRAD_SPIKE: Trouble(hurt=lambda o, n: scaled(o, grad_norm=200.0), steps=1, latest=0),
    Symptom.DIVERGENCE: Trouble(hurt=lambda o, n: scaled(o, loss=5.0), steps=12, latest=6),
    Symptom.OSCILLATION: Trouble(
        hurt=curve_troubles.swinging, steps=256, latest=200, early=16, late=16, calm=300
    ),
    Symptom.PLATEAU: Trouble(hurt=curve_troubles.stuck, steps=200, latest=120),
    Symptom.SLOW_CONVERGENCE: Trouble(
        hurt=curve_troubles.slowed,
        steps=1_600,
        latest=1_590,
        early=200,
        late=400,
        calm=800,
        warm_up=1_200,
    ),
    Symptom.OVERFITTING: Trouble(
        hurt=curve_troubles.overfitted,
        steps=400,
        latest=250,
        early=200,
        late=50,
        calm=300,
        warm_up=649,
    ),
    Symptom.VANISHING_GRADIENT: Trouble(
        hurt=layer_troubles.vanishing, steps=140, latest=125, early=8, calm=130
    ),
    Symptom.EXPLODING_GRADIENT: Trouble(
        hurt=layer_troubles.exploding, steps=140, latest=125, early=8, calm=130
    ),
    Symptom.DEAD_UNITS: Trouble(hurt=layer_troubles.dead, steps=80, latest=64, early=16),
    Symptom.ACTIVATION_DRIFT: Trouble(
        hurt=layer_troubles.drifting,
        steps=400,
        latest=320,
        early=140,
        late=8,
        calm=300,
        warm_up=1200,
    ),
    Symptom.WEIGHT_GROWTH: Trouble(
        hurt=layer_troubles.grown, steps=48, latest=33, early=16, calm=180
    ),
    Symptom.OPTIMIZER_STATE: Trouble(hurt=layer_troubles.poisoned, steps=80, latest=64),
    Symptom.LR_JUMP: Trouble(hurt=lambda o, n: scaled(o, lr=100.0), steps=3, latest=0, early=0),
    Symptom.LOSS_SCALE: Trouble(
        hurt=lambda o, n: scaled(o, loss_scale=0.5 ** (n + 1)), steps=12, latest=5, early=0
    ),
    Symptom.CLIPPING: Trouble(
        hurt=lambda o, n: scaled(o, grad_norm=20.0),
        steps=600,
        latest=360,
        early=60,
        late=60,
        calm=420,
    ),
    Symptom.BAD_BATCH: Trouble(
        hurt=lambda o, n: with_values(o, input_top_share=1.0, input_distinct_share=1 / 256),
        steps=1,
        latest=0,
        early=0,
    ),
    Symptom.OUTPUT_COLLAPSE: Trouble(
        hurt=lambda o, n: with_values(o, top_token_share=0.99, output_entropy=0.01),
        steps=10,
        latest=3,
        early=0,
    ),
    Symptom.EVAL_MODE_MISMATCH: Trouble(
        hurt=lambda o, n: with_values(o, train_in_eval=1.0), steps=25, latest=19, early=0
    ),
    Symptom.DATA_STARVED: Trouble(
        hurt=lambda o, n: with_values(o, data_wait=0.9 * o.values["step_time"]),
        steps=300,
        latest=80,
        calm=160,
    ),
    Symptom.LOW_GPU_UTILIZATION: Trouble(
        hurt=lambda o, n: with_values(o, gpu_utilization=0.05), steps=400, latest=350, calm=160
    ),
    Symptom.MEMORY_GROWTH: Trouble(
        hurt=lambda o, n: with_values(o, memory_allocated=6e10 + 2.55e7 * n),
        steps=960,
        latest=959,
        early=64,
        late=96,
        calm=130,
    ),
    Symptom.NO_CHECKPOINT: Trouble(
        hurt=lambda o, n: with_values(o, checkpoint_age=8_000.0 + n), steps=3, latest=1, early=0
    ),
    Symptom.STRAGGLER: Trouble(hurt=rank_troubles.slow, steps=160, latest=140, calm=110),
    Symptom.RANK_DESYNC: Trouble(hurt=rank_troubles.flipped, steps=64, latest=16, early=16),
}


def hurt(
    run: Sequence[Observation], symptom: Symptom, start: int, length: int | None = None
) -> list[Observation]:
    """The run with the trouble in it from ``start`` on, for as long as it takes to be found."""
    trouble = TROUBLES[symptom]
    stop = start + (trouble.steps if length is None else length)
    return [
        trouble.hurt(observation, i - start) if start <= i < stop else observation
        for i, observation in enumerate(run)
    ]
