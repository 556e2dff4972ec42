"""Curves of losses, and what a detector says about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lossguard.detectors import Detector, Finding, Observation, Severity

Array = npt.NDArray[np.float64]


def noisy(trend: Array, noise: float, seed: int, dof: float = 5.0) -> Array:
    """The trend in Student-t noise of that relative size."""
    random = np.random.default_rng(seed)
    return np.asarray(trend * np.exp(noise * random.standard_t(dof, len(trend))))


def power_law(num_steps: int, floor: float = 2.5) -> Array:
    """A loss that falls from 8 above its floor by a power of the steps."""
    return np.asarray(floor + 8.0 * (1.0 + np.arange(num_steps) / 5.0) ** -0.5)


def findings(
    detector: Detector, first_step: int = 0, **columns: Sequence[float] | Array
) -> list[Finding]:
    """All that the detector says about a log; a NaN in a column is a blank."""
    num_rows = max(len(column) for column in columns.values())
    said = []
    for i in range(num_rows):
        values = {name: float(column[i]) for name, column in columns.items()}
        known = {name: value for name, value in values.items() if value == value}
        said.append(detector.update(Observation(first_step + i, known)))
    return [finding for finding in said if finding is not None]


def warnings(said: Sequence[Finding]) -> list[Finding]:
    """The warnings that open an episode."""
    return [f for f in said if f.severity is Severity.WARNING and f.end_step is None]


def every(num_rows: int, stride: int, values: Array) -> Array:
    """A column that holds the values on every ``stride``-th row, and blanks."""
    column = np.full(num_rows, np.nan)
    column[stride - 1 :: stride] = values[: len(column[stride - 1 :: stride])]
    return column
