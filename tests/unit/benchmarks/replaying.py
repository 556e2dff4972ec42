"""Rules on made-up columns of numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from benchmarks.rivals import Rival
from lossguard.detectors import Observation


def alarms(rival: Rival, losses: Iterable[float] = (), **metrics: Sequence[float]) -> list[int]:
    """The rows at which a rule alarms on losses, or on other metrics by name."""
    columns = {"loss": list(losses)} if losses else {}
    columns |= {name: list(values) for name, values in metrics.items()}
    rows = max(map(len, columns.values()))
    said = []
    for row in range(rows):
        values = {name: column[row] for name, column in columns.items() if row < len(column)}
        if rival.update(Observation(row, values)) is not None:
            said.append(row)
    return said


def noisy(level: float, rows: int, spread: float = 0.01, seed: int = 0) -> list[float]:
    """A level with Gaussian noise, relative to it."""
    rng = random.Random(seed)
    return [level * (1 + rng.gauss(0, spread)) for _ in range(rows)]


def falling(rows: int, start: float = 8.0, end: float = 3.0) -> list[float]:
    """A straight way down."""
    return [start + (end - start) * row / rows for row in range(rows)]
