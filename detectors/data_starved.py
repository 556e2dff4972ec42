"""Training that waits for its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.block_medians import BlockMedians
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class DataStarvedConfig:
    """Thresholds. Sources in the docstring of ``DataStarved``."""

    block: int = 50
    """Steps whose median share is judged [observations, >= 5]."""
    warm_up: int = 50
    """First steps, which do not count: workers start, kernels compile [observations, >= 0]."""
    note: float = 0.3
    """Share of the step's time that is worth a line [0 < share < 1]."""
    warn: float = 0.5
    """Share that is worth a look when it lasts [share, >= note, < 1]: the GPU idles half of the
    time. SageMaker's profiler calls an I/O bottleneck at 50 %."""
    warn_blocks: int = 4
    """Blocks in a row above it [>= 1]."""
    calm: float = 0.2
    """Share below which it is over [share, <= note]."""
    calm_blocks: int = 2
    """Blocks in a row below it [>= 1]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.calm <= self.note <= self.warn < 1.0:
            raise ValueError(
                "0 < calm <= note <= warn < 1 must hold, got "
                f"{self.calm}, {self.note} and {self.warn}"
            )
        require_at_least(self, block=5, warm_up=0, warn_blocks=1, calm_blocks=1)


class DataStarved(EpisodicDetector):
    """Flag steps that spend much of their time waiting for the DataLoader.

    share = data_wait / step_time, in [0, 1]; median of blocks of 50 steps
    after the first 50. Above 0.3 is a line,
    above 0.5 in 4 blocks in a row a warning, below 0.2 in 2 blocks the end. The median leaves out
    first steps, epoch edges and checkpoints: a few long waits.
    """

    symptom: ClassVar[Symptom] = Symptom.DATA_STARVED
    inputs: ClassVar[tuple[str, ...]] = ("data_wait", "step_time")

    def __init__(self, config: DataStarvedConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or DataStarvedConfig()
        self._shares = BlockMedians(c.block, (c.note, c.warn))
        self._seen = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """The share, where it can be told."""
        values = observation.values
        wait = values.get("data_wait")
        if wait is None:
            return None
        time = values.get("step_time")
        if time is None or not (time > 0.0 and 0.0 <= wait < math.inf) or time == math.inf:
            return None
        return (min(wait / time, 1.0),)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one share."""
        (share,) = inputs
        assert share is not None
        if self._seen < self.config.warm_up:
            self._seen += 1
            return None
        if not self._shares.push(step, share):
            return None
        config, middle = self.config, self._shares.median
        noted, warned = self._shares.beyond
        words = f"{middle:.0%} of the time goes to waiting for data"
        if noted:
            severity = Severity.WARNING if warned >= config.warn_blocks else Severity.INFO
            score = middle / config.note
            return self.hit(
                step, severity, score, words, onset=self._shares.since, evidence={"share": middle}
            )
        if middle < config.calm:
            return self.calm(step, config.calm_blocks, words)
        return None

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {"shares": self._shares.state(), "seen": self._seen}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._shares.restore(saved["shares"])
        self._seen = saved["seen"]
