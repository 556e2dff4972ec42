"""A healthy run with every metric that docs/metrics.md names: detectors stay silent on it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lossguard.detectors import Family, Observation

Floats = npt.NDArray[np.float64]

PARAMETERS = ("embed.weight", *(f"blocks.{i}.weight" for i in range(6)), "head.weight")
MODULES = ("embed", *(f"blocks.{i}" for i in range(6)), "head")
ACTIVATIONS = tuple(f"blocks.{i}.act" for i in range(6))
SAMPLED_EVERY = 16
VALIDATED_EVERY = 50
RANKS = ("0", "1", "2", "3")


def learning_rate(num_steps: int) -> Floats:
    """A warm-up and a cosine, never outside of it."""
    t = np.arange(num_steps)
    return np.asarray(
        1e-3 * np.minimum((t + 1) / 100.0, 1.0) * (0.55 + 0.45 * np.cos(np.pi * t / num_steps))
    )


@lru_cache(maxsize=8)
def healthy(
    num_steps: int, seed: int, noise: float = 0.02, dof: float = 4.0
) -> tuple[Observation, ...]:
    """A loss that decays by a power law, then faster as the learning rate does, in heavy tails."""
    random = np.random.default_rng(seed)
    t = np.arange(num_steps)
    trend = 2.5 + 8.0 * (1.0 + t / 5.0) ** -0.5
    trend *= np.where(t > 0.7 * num_steps, 1.0 - 0.15 * (t / num_steps - 0.7), 1.0)
    trend *= np.exp(np.cumsum(random.normal(0.0, 2e-4, num_steps)))
    loss = trend * np.exp(noise * random.standard_t(dof, num_steps))
    grad_norm = (0.3 + 3.0 / (1.0 + t / 50.0)) * np.exp(
        0.2 * random.standard_t(2.0 * dof, num_steps)
    )
    early = np.exp(-t / 200.0)
    columns: dict[str, npt.NDArray[np.floating[Any]]] = {
        "loss": loss,
        "grad_norm": grad_norm,
        "max_norm": np.full(num_steps, 1.5),
        "lr": learning_rate(num_steps),
        "loss_scale": 2.0 ** (16 - np.minimum(t // 4000, 3) % 2),
        "skipped": np.zeros(num_steps),
        "step_time": 0.5 * np.exp(0.05 * random.standard_normal(num_steps)),
        "train_in_eval": np.zeros(num_steps),
        "output_entropy": 0.3 + 0.6 * early + 0.01 * random.standard_normal(num_steps),
        "top_token_share": np.clip(0.12 + 0.6 * early + 0.03 * random.random(num_steps), 0, 1),
        "target_top_share": 0.10 + 0.03 * random.random(num_steps),
        "logit_z": 8.0 + 0.3 * random.standard_normal(num_steps),
        "input_top_share": 0.08 + 0.05 * random.random(num_steps),
        "input_distinct_share": 0.5 + 0.1 * random.random(num_steps),
        "input_length": np.full(num_steps, 256.0),
        "input_absmax": 3.0 * np.exp(0.1 * random.standard_normal(num_steps)),
        "data_wait": 0.01 * np.exp(0.5 * random.standard_normal(num_steps)),
        "rss": 4e9 + 1e6 * random.random(num_steps) + 2e8 * (1.0 - early),
        "memory_allocated": 6e10 + 1e8 * random.random(num_steps),
        "memory_reserved": np.full(num_steps, 7e10),
        "memory_total": np.full(num_steps, 8.5e10),
        "gpu_utilization": np.clip(0.95 + 0.03 * random.standard_normal(num_steps), 0, 1),
        "checkpoint_age": 0.5 * (t % 1000),
    }
    val_loss = trend * (1.02 + 0.003 * random.standard_normal(num_steps))
    per_step = {
        "grad_norm": (PARAMETERS, _layers(random, num_steps, PARAMETERS, 0.2) * grad_norm[:, None]),
        "act_rms": (MODULES, _layers(random, num_steps, MODULES, 0.03)),
    }
    sampled = {
        "zero_share": (
            ACTIVATIONS,
            np.clip(_layers(random, num_steps, ACTIVATIONS, 0.05) / 2, 0, 1),
        ),
        "saturated_share": (ACTIVATIONS, 0.02 * _layers(random, num_steps, ACTIVATIONS, 0.05)),
        "weight_norm": (
            PARAMETERS,
            5.0 * _layers(random, num_steps, PARAMETERS, 0.001) * (1.2 - 0.2 * early[:, None]),
        ),
        "update_ratio": (
            PARAMETERS,
            learning_rate(num_steps)[:, None] * _layers(random, num_steps, PARAMETERS, 0.1),
        ),
    }
    ranks = _ranks(np.random.default_rng([seed, 1]), num_steps)
    per_step |= {name: (RANKS, rows) for name, rows in ranks.items()}
    sums = np.random.default_rng([seed, 2]).integers(2**24, size=(num_steps, 1))
    sampled["rank_checksum"] = (RANKS, np.broadcast_to(sums, (num_steps, len(RANKS))))
    run = []
    for step in range(num_steps):
        values = {name: float(column[step]) for name, column in columns.items()}
        families = {name: family(names, rows[step]) for name, (names, rows) in per_step.items()}
        if step % SAMPLED_EVERY == 0:
            families |= {name: family(names, rows[step]) for name, (names, rows) in sampled.items()}
        if step % VALIDATED_EVERY == VALIDATED_EVERY - 1:
            values["val_loss"] = float(val_loss[step])
            values["eval_in_training"] = 0.0
        run.append(Observation(step, values, time_s=0.5 * step, applied=step, families=families))
    return tuple(run)


def family(names: tuple[str, ...], values: Floats) -> Family:
    """A family of which every value was measured."""
    return Family(names, values.astype(np.float32), np.zeros(len(names), np.bool_))


def _layers(
    random: np.random.Generator, num_steps: int, names: tuple[str, ...], noise: float
) -> Floats:
    """About 1, a size of its own for each layer, and noise."""
    size = np.exp(0.1 * random.standard_normal(len(names)))
    return np.asarray(size * np.exp(noise * random.standard_normal((num_steps, len(names)))))


def _ranks(random: np.random.Generator, num_steps: int) -> dict[str, Floats]:
    """Four that are as fast as each other [s], and wait for the slowest in every step."""
    shape = (num_steps, len(RANKS))
    data = 0.01 * np.exp(0.5 * random.standard_normal(shape))
    own = data + 0.2 * np.exp(0.05 * random.standard_normal(shape))
    step_time = 0.3 + np.broadcast_to(own.max(axis=1, keepdims=True), shape)
    return {"rank_own_time": own, "rank_data_time": data, "rank_step_time": step_time}


def with_values(observation: Observation, **values: float) -> Observation:
    """The observation with some plain values replaced or added."""
    return _changed(observation, values={**observation.values, **values})


def scaled(observation: Observation, **factors: float) -> Observation:
    """The observation with some plain values, where it has them, multiplied."""
    changed = {
        name: observation.values[name] * factor
        for name, factor in factors.items()
        if name in observation.values
    }
    return with_values(observation, **changed)


def with_layers(observation: Observation, name: str, factors: Floats) -> Observation:
    """The observation with a family, where it has it, multiplied layer by layer."""
    old = observation.families.get(name)
    if old is None:
        return observation
    values = (old.values * factors).astype(np.float32)
    new = Family(old.names, values, old.missing)
    return _changed(observation, families={**observation.families, name: new})


def at_step(observation: Observation, step: int) -> Observation:
    """The observation as if made at another step."""
    return Observation(step, observation.values, observation.time_s, step, observation.families)


def _changed(
    observation: Observation,
    values: Mapping[str, float] | None = None,
    families: Mapping[str, Family] | None = None,
) -> Observation:
    return Observation(
        observation.step,
        observation.values if values is None else values,
        observation.time_s,
        observation.applied,
        observation.families if families is None else families,
    )
