"""Observations with layers, made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lossguard.detectors import Detector, Family, Finding, Observation

BLOCKS = tuple(f"blocks.{i}.{kind}.weight" for i in range(8) for kind in ("attn", "fc1", "fc2"))
"""Weights of eight blocks, three kinds in each."""


def layers(names: Sequence[str], values: Iterable[float | None]) -> Family:
    """A family; None is missing."""
    listed = list(values)
    numbers = np.array([np.nan if x is None else x for x in listed], np.float32)
    return Family(tuple(names), numbers, np.array([x is None for x in listed], np.bool_))


def with_families(
    step: int, families: Mapping[str, Family] | None = None, **values: float
) -> Observation:
    """An observation."""
    return Observation(step, values, families=families or {})


def replayed(detector: Detector, observations: Iterable[Observation]) -> list[Finding]:
    """All that the detector says."""
    said = (detector.update(observation) for observation in observations)
    return [finding for finding in said if finding is not None]
