"""A GPU that idles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.block_medians import BlockMedians
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class LowGpuUtilizationConfig:
    """Thresholds. Sources in the docstring of ``LowGpuUtilization``."""

    block: int = 50
    """Observations whose median is judged [>= 5]."""
    blocks: int = 6
    """Blocks in a row that are low before a word is said [>= 1]."""
    note: float = 0.3
    """Utilisation below which it is worth a line [0 < share < 1]."""
    warn: float = 0.1
    """Utilisation below which it is worth a look [share, <= note]."""
    calm: float = 0.4
    """Utilisation from which it is over [share, >= note]."""
    calm_blocks: int = 2
    """Blocks in a row above it [>= 1]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.warn <= self.note <= self.calm < 1.0:
            raise ValueError(
                "0 < warn <= note <= calm < 1 must hold, got "
                f"{self.warn}, {self.note} and {self.calm}"
            )
        require_at_least(self, block=5, blocks=1, calm_blocks=1)


class LowGpuUtilization(EpisodicDetector):
    """Flag a device that is busy for a small share of the time, for long.

    Medians of blocks of 50 observations: below 0.3 in six in a row is a line, below 0.1 in six in
    a row a warning, 0.4 in two in a row the end. Utilisation is the share of the time in which
    any kernel ran (NVML), so that a low one is certain waste, while a high one proves little.
    SageMaker's profiler asks for a 95th percentile of 70 % and a 5th of 10 %.
    """

    symptom: ClassVar[Symptom] = Symptom.LOW_GPU_UTILIZATION
    inputs: ClassVar[tuple[str, ...]] = ("gpu_utilization",)

    def __init__(self, config: LowGpuUtilizationConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or LowGpuUtilizationConfig()
        self._shares = BlockMedians(c.block, (c.note, c.warn), sign=-1.0)

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """The utilisation, where it is one."""
        share = observation.values.get("gpu_utilization")
        return None if share is None or not 0.0 <= share <= 1.0 else (share,)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one utilisation."""
        (share,) = inputs
        assert share is not None
        if not self._shares.push(step, share):
            return None
        config, middle = self.config, self._shares.median
        noted, warned = self._shares.beyond
        words = f"the GPU is busy for {middle:.0%} of the time"
        if noted >= config.blocks:
            severity = Severity.WARNING if warned >= config.blocks else Severity.INFO
            score = config.note / max(middle, 0.01)
            return self.hit(
                step,
                severity,
                score,
                words,
                onset=self._shares.since,
                evidence={"utilization": middle},
            )
        if middle >= config.calm:
            return self.calm(step, config.calm_blocks, words)
        return None

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {"shares": self._shares.state()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._shares.restore(saved["shares"])
