"""What hurts one of the ranks of a healthy run."""

from __future__ import annotations

import numpy as np

from lossguard.detectors import Observation
from tests.support.healthy_run import with_layers


def slow(observation: Observation, n: int) -> Observation:
    """Rank 2 computes at half speed."""
    return with_layers(observation, "rank_own_time", np.array([1.0, 1.0, 2.0, 1.0]))


def flipped(observation: Observation, n: int) -> Observation:
    """The checksum of rank 1 is another one."""
    return with_layers(observation, "rank_checksum", np.array([1.0, 0.5, 1.0, 1.0]))
