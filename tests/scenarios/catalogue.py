"""Every scenario there is, and every piece of normal life, by name."""

from __future__ import annotations

from tests.scenarios import (
    data_side,
    depth,
    diverging,
    layers,
    no_progress,
    normal_life,
    normal_machinery,
    not_finite,
    resources,
    spikes,
    updating,
    validating,
)
from tests.scenarios.scenario import NORMAL, SCENARIOS

__all__ = ["FAMILIES", "NORMAL", "SCENARIOS"]

FAMILIES = (
    not_finite,
    spikes,
    diverging,
    no_progress,
    validating,
    depth,
    layers,
    updating,
    data_side,
    resources,
    normal_life,
    normal_machinery,
)
"""Importing a family declares its scenarios."""
