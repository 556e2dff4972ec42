"""Gradients that shrink towards the input, or fall to next to nothing altogether."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Severity, Symptom
from lossguard.detectors.depthwise import DepthwiseDetector, Slope
from lossguard.detectors.fading import Fading
from lossguard.detectors.thresholds import require_above, require_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class VanishingGradientConfig:
    """Thresholds. Sources in the docstring of ``VanishingGradient``."""

    looks: int = 16
    """Looks at the layers over which it must last [count, >= 4]: 32 steps at the start of a run,
    128 later on."""
    ratio: float = 1e-3
    """Gradient norm at the input over that at the output [> 0]: AutoTrainer's."""
    stalled_ratio: float = 1e-2
    """The same, while the loss makes no progress [>= ratio]."""
    tiny: float = 1e-4
    """Norm at the input below which it counts [gradient units, > 0]: AutoTrainer's."""
    severe_ratio: float = 1e-4
    """Ratio that is worth a warning when it lasts, though the loss still falls [<= ratio]."""
    severe_rows: int = 128
    """Steps with layers that it must last for that [observations, >= 1]."""
    collapsed: float = 1e-3
    """Total norm over its usual one at which the gradient has collapsed [> 0]."""
    collapse_stay: int = 32
    """Such norms in a row [observations, >= 4]."""
    small_loss: float = 0.2
    """Loss over the first one of the run at which small gradients are right [>= 0]."""

    def __post_init__(self) -> None:
        require_at_least(self, looks=4, severe_rows=1, collapse_stay=4)
        require_above(self, ratio=0, tiny=0, severe_ratio=0, collapsed=0)
        if not self.severe_ratio <= self.ratio <= self.stalled_ratio:
            raise ValueError(
                f"severe_ratio <= ratio <= stalled_ratio must hold, got {self.severe_ratio},"
                f" {self.ratio} and {self.stalled_ratio}"
            )
        if not self.small_loss >= 0:
            raise ValueError(f"small_loss must be >= 0, got {self.small_loss}")


class VanishingGradient(DepthwiseDetector):
    """Report gradient norms that decay layer by layer towards the input.

    With g1 ... g4 the median norms of the quarters of the depth, weights of the same kind compared
    (``depth``), and gin and gout the ends of the line through log g1 and log g4, a look is bad when

        gin / gout < ratio,  gin < tiny  and  g1 < g2 < g3 < g4,

    and it lasts when 85 % of the last ``looks`` are. Thresholds: Zhang et al., "AutoTrainer", ICSE
    2021 (1e-3 and 1e-4, first and last layer). Layers without a gradient are left out. An info,
    for optimizers that normalise each layer do train such models; a warning when the loss makes no
    progress (``LossProgress``), where ``stalled_ratio`` suffices, as in a Post-LN transformer of 30
    layers without warm-up; and one when the ratio stays below ``severe_ratio``.

    Also, from the total norm alone: ``collapse_stay`` norms in a row below ``collapsed`` of the
    median of the last 256 others, while the loss is not small and makes no progress: a warning.
    """

    symptom: ClassVar[Symptom] = Symptom.VANISHING_GRADIENT

    def __init__(self, config: VanishingGradientConfig | None = None) -> None:
        self.config = config or VanishingGradientConfig()
        super().__init__(self.config.looks)
        self._fading = Fading(self.config.collapsed)
        self._lasting_from: int | None = None
        self._collapsed = False

    def extreme_of(self, lowest: int, highest: int) -> int:
        """The layer with the smallest gradient."""
        return lowest

    def is_bad(self, slope: Slope) -> bool:
        """Whether the norms decay towards the input."""
        config = self.config
        ratio = config.stalled_ratio if self._progress.stalled else config.ratio
        steep = slope.last - slope.first > -log10(ratio)
        return steep and slope.first < log10(config.tiny) and slope.least_step > 0.0

    def along_depth(self, step: int, slope: Slope) -> Finding | None:
        """Open an episode, or escalate it once the loss stands still."""
        config = self.config
        if self._lasting_from is None:
            self._lasting_from = self._rows
        decay = slope.last - slope.first
        severe = decay > -log10(config.severe_ratio)
        lasts = self._rows - self._lasting_from >= config.severe_rows
        grave = self._progress.stalled or (severe and lasts)
        first, last = 10.0**slope.first, 10.0**slope.last
        message = (
            f"the gradient shrinks from layer to layer: its norm is {last:.2g} at the output and"
            f" {first:.2g} at the input"
        )
        return self.blame(
            self.blamed(),
            step,
            Severity.WARNING if grave else Severity.INFO,
            max(1.0, decay / -log10(config.ratio)),
            message + (", and the loss makes no progress" if self._progress.stalled else ""),
            kind="depth",
            onset=self._lasting.onset(),
            evidence={"first": first, "last": last, "lowest": slope.extreme},
        )

    def over_time(self, step: int, norm: float, loss: float | None) -> Finding | None:
        """Take in the total norm."""
        fading, config = self._fading, self.config
        fading.push(step, norm)
        if fading.count < config.collapse_stay:
            self._collapsed = False
            return None
        if not self._collapsed:
            self._collapsed = self._progress.stalled and not self._progress.is_small(
                config.small_loss
            )
        if not self._collapsed or self._lasting.active:
            return None
        usual = fading.usual
        return self.blame(
            "",
            step,
            Severity.WARNING,
            config.collapsed * usual / max(norm, 1e-6 * usual),
            f"the gradient norm is {norm:.2g} where {usual:.2g} was usual,"
            " and the loss makes no progress",
            kind="total",
            onset=fading.since,
            evidence={"usual": usual, "norm": norm},
        )

    @property
    def over_time_active(self) -> bool:
        """Whether the total norm has collapsed."""
        return self._collapsed

    def all_well(self, step: int) -> Finding | None:
        """End the episode."""
        self._lasting_from = None
        return self.end(step, "the gradient no longer vanishes")

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "fading": self._fading.state(),
            "lasting_from": self._lasting_from,
            "collapsed": self._collapsed,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._fading.restore(saved["fading"])
        self._lasting_from = saved["lasting_from"]
        self._collapsed = saved["collapsed"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._fading.clear()
        self._lasting_from = None
        self._collapsed = False
