"""Gradients that grow towards the input, or as a whole from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Severity, Symptom
from lossguard.detectors.depthwise import DepthwiseDetector, Slope
from lossguard.detectors.exponential_growth import ExponentialGrowth
from lossguard.detectors.thresholds import require_above


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplodingGradientConfig:
    """Thresholds. Sources in the docstring of ``ExplodingGradient``."""

    looks: int = 16
    """Looks at the layers over which it must last [count, >= 4]: 32 steps at the start of a run,
    128 later on."""
    ratio: float = 70.0
    """Gradient norm at the input over that at the output [> 1]: AutoTrainer's."""
    growth: float = 10.0
    """Growth of the total norm within 200 steps [> 1]."""
    surge: float = 1000.0
    """Total norm over its usual one that is critical, five times in a row [> 10]."""

    def __post_init__(self) -> None:
        if self.looks < 4:
            raise ValueError(f"looks must be >= 4, got {self.looks}")
        require_above(self, ratio=1, growth=1, surge=10)


class ExplodingGradient(DepthwiseDetector):
    """Report gradient norms that grow layer by layer towards the input, or step by step.

    With g1 ... g4 the median norms of the quarters of the depth, weights of the same kind compared
    (``depth``), and gin and gout the ends of the line through log g1 and log g4, a look is bad when
    gin / gout > ``ratio`` and g1 > g2 > g3 > g4, and it lasts when 85 % of the last ``looks`` are:
    a warning. Threshold: Zhang et al., "AutoTrainer", ICSE 2021 (first against last layer; here a
    line through quarters, for the first layer and the head are unlike the rest).

    From the total norm alone (``ExponentialGrowth``): growth by ``growth`` within 200 steps, steady
    and without a gain in loss, is a warning; five norms in a row above ``surge`` times the usual
    and still rising are critical.
    """

    symptom: ClassVar[Symptom] = Symptom.EXPLODING_GRADIENT

    def __init__(self, config: ExplodingGradientConfig | None = None) -> None:
        self.config = config or ExplodingGradientConfig()
        super().__init__(self.config.looks)
        self._growth = ExponentialGrowth(self.config.growth, self.config.surge)

    def extreme_of(self, lowest: int, highest: int) -> int:
        """The layer with the largest gradient."""
        return highest

    def is_bad(self, slope: Slope) -> bool:
        """Whether the norms grow towards the input."""
        return slope.first - slope.last > log10(self.config.ratio) and slope.most_step < 0.0

    def along_depth(self, step: int, slope: Slope) -> Finding | None:
        """Open an episode, or let it go on."""
        first, last = 10.0**slope.first, 10.0**slope.last
        return self.blame(
            self.blamed(),
            step,
            Severity.WARNING,
            max(1.0, (slope.first - slope.last) / log10(self.config.ratio)),
            f"the gradient grows from layer to layer: its norm is {last:.2g} at the output and"
            f" {first:.2g} at the input",
            kind="depth",
            onset=self._lasting.onset(),
            evidence={"first": first, "last": last, "highest": slope.extreme},
        )

    def over_time(self, step: int, norm: float, loss: float | None) -> Finding | None:
        """Take in the total norm."""
        growth = self._growth.push(step, norm, loss) if norm > 0.0 else None
        if growth is None:
            return None
        times = growth.after / growth.before
        return self.blame(
            "",
            step,
            Severity.CRITICAL if growth.surge else Severity.WARNING,
            log10(times) / log10(self.config.growth),
            f"the gradient norm grows from step to step: it is {growth.after:.2g} where"
            f" {growth.before:.2g} was usual ({times:.2g} times)",
            kind="total",
            onset=growth.since,
            evidence={"usual": growth.before, "norm": growth.after},
        )

    @property
    def over_time_active(self) -> bool:
        """Whether the total norm grows."""
        return self._growth.active

    def all_well(self, step: int) -> Finding | None:
        """End the episode."""
        return self.end(step, "the gradient no longer explodes")

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {"growth": self._growth.state()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._growth.restore(saved["growth"])

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._growth.clear()
