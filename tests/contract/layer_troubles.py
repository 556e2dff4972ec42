"""What hurts the layers of a healthy run."""

from __future__ import annotations

import numpy as np

from lossguard.detectors import Family, Observation
from tests.support.healthy_run import ACTIVATIONS, PARAMETERS, family, scaled, with_layers

_DEPTH = np.array([5.0, *(5.0 - i for i in range(6)), 0.0])
"""Layers between each of ``PARAMETERS`` and the last block."""


def vanishing(observation: Observation, n: int) -> Observation:
    """Each layer passes a tenth of the gradient on."""
    return with_layers(observation, "grad_norm", 10.0**-_DEPTH)


def exploding(observation: Observation, n: int) -> Observation:
    """Each layer passes the gradient on four times as large."""
    return with_layers(observation, "grad_norm", 4.0**_DEPTH)


def dead(observation: Observation, n: int) -> Observation:
    """A layer puts out zeros only."""
    shares = observation.families.get("zero_share")
    if shares is None:
        return observation
    values = np.where(np.arange(len(ACTIVATIONS)) == 2, 1.0, shares.values)
    return _with_family(observation, "zero_share", family(ACTIVATIONS, values))


def drifting(observation: Observation, n: int) -> Observation:
    """The activations of a block grow by 1 % a step."""
    return with_layers(observation, "act_rms", _only(4, 1.01**n))


def grown(observation: Observation, n: int) -> Observation:
    """A weight is twice as large at once."""
    return with_layers(observation, "weight_norm", _only(3, 2.0))


def poisoned(observation: Observation, n: int) -> Observation:
    """A giant gradient, after which updates are a twentieth of what they were."""
    if n < 2:
        return scaled(observation, grad_norm=1000.0)
    return with_layers(observation, "update_ratio", np.full(len(PARAMETERS), 0.05))


def _only(index: int, factor: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    factors = np.ones(len(PARAMETERS))
    factors[index] = factor
    return factors


def _with_family(observation: Observation, name: str, changed: Family) -> Observation:
    return Observation(
        observation.step,
        observation.values,
        observation.time_s,
        observation.applied,
        {**observation.families, name: changed},
    )
