"""Troubles of the shape of a curve, as the contract tests hurt a healthy run with them."""

from __future__ import annotations

import math

from lossguard.detectors import Observation
from tests.support.healthy_run import scaled, with_values


def overfitted(o: Observation, n: int) -> Observation:
    """The validation loss rises by a tenth from one evaluation to the next."""
    return scaled(o, val_loss=1.0 + 0.002 * min(n, 1_000))


def stuck(o: Observation, n: int) -> Observation:
    """The loss stands at 9, near where the run began."""
    return with_values(o, loss=9.0 * (1.0 + 0.002 * (7 * n % 5 - 2)))


def swinging(o: Observation, n: int) -> Observation:
    """The loss swings by 30 % to either side, once in 16 steps."""
    return scaled(o, loss=1.0 + 0.3 * math.sin(2.0 * math.pi * n / 16.0))


def slowed(o: Observation, n: int) -> Observation:
    """The loss stops falling, and creeps up by 6 % in 600 steps."""
    then, now = (2.5 + 8.0 * (1.0 + t / 5.0) ** -0.5 for t in (o.step - n, o.step))
    return scaled(o, loss=then / now * (1.0 + 1e-4 * min(n, 600)))
