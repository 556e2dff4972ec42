"""The loss scale of FP16 training: it collapses, sticks, climbs, or costs too many updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.recent_loss import RecentLoss
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.scale_falls import ScaleFalls
from lossguard.detectors.skip_share import SkipShare
from lossguard.detectors.thresholds import require_above, require_at_least

_SKIP_SCALER = 16
"""The wire's SKIP_SCALER."""
_ABSURD = 2.0**64
"""No scaler gets there in FP16: such a value says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossScaleConfig:
    """Thresholds. Sources in the docstring of ``LossScale``."""

    collapse_halvings: float = 6.0
    """Net halvings within 64 observations that are a collapse [> 0]."""
    fast_halvings: float = 5.0
    """The same within 8 observations [> 0]."""
    agree_halvings: float = 3.0
    """The same within 16 observations, where the loss is up as well [> 0]."""
    tiny: float = 2.0**-10
    """A scale at which something is wrong whatever came before [> 0, < 1]."""
    high: float = 2.0**20
    """A scale above it is worth a line [> 1]: BLOOM's lived at 2^20."""
    too_high: float = 2.0**24
    """A scale above it is worth a look [>= high]: FP32 losses have 24 bits."""
    high_stay: int = 8
    """Scales in a row above it [observations, >= 1]."""
    skip_share: float = 0.10
    """Share of the updates that the scaler drops, once it has found its scale [0 < share < 1]."""
    skip_window: int = 100
    """Updates over which that is judged [observations, >= 10]."""
    stuck_overflows: int = 4
    """Overflows at a scale of 1 or less within 64 observations that mean it is stuck [>= 2]."""
    search_quiet: int = 16
    """Observations without an overflow that end the first search for a scale [>= 1]."""
    calm_steps: int = 32
    """Observations without an overflow that end an episode [observations, >= 1]."""

    def __post_init__(self) -> None:
        require_above(self, collapse_halvings=0.0, fast_halvings=0.0, agree_halvings=0.0)
        if not 0.0 < self.tiny < 1.0:
            raise ValueError(f"tiny must be in (0, 1), got {self.tiny}")
        if not 1.0 < self.high <= self.too_high:
            raise ValueError(f"1 < high <= too_high must hold, got {self.high}, {self.too_high}")
        if not 0.0 < self.skip_share < 1.0:
            raise ValueError(f"skip_share must be in (0, 1), got {self.skip_share}")
        require_at_least(
            self, high_stay=1, skip_window=10, stuck_overflows=2, search_quiet=1, calm_steps=1
        )


class LossScale(EpisodicDetector):
    """Flag what a healthy loss scaler does not do. With y = log2(scale):

    *Collapse*: y falls by 6 within 64 observations or by 5 within 8, after the first search; or
    by 3 within 16 while two losses in a row stand above their level (``RecentLoss``; three during
    the first search); or it falls
    while the scale is below 1; or the scale is below 2^-10 when first seen. A warning; critical
    where it goes on below 1, and where the loss is up. GLM-130B's scale fell some 30 steps before
    each divergence (its main log); a scale on its way down means gradients on their way up.

    *Stuck*: 4 overflows within 64 observations at a scale of 1 or less (OPT's logbook). *Skips*:
    the scaler drops over 10 % of 100 updates. Both warnings. *Climb*: 8 observations above 2^20
    after a lower scale: a line, past 2^24 a warning.

    Normal are a doubling every so often with a halving now and then (``torch.amp.GradScaler``:
    x 2 after 2000 steps, x 1/2 at an overflow), and the first search for a scale: the falls until
    16 observations brought no overflow, 16 from 2^16 and 22 from DeepSpeed's 2^32. A scale that
    rises fourfold at once is a new scaler's, which searches anew, and so is one after a resume.
    """

    symptom: ClassVar[Symptom] = Symptom.LOSS_SCALE
    inputs: ClassVar[tuple[str, ...]] = ("loss_scale",)

    def __init__(self, config: LossScaleConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or LossScaleConfig()
        self._falls = ScaleFalls(c.search_quiet)
        self._skips = SkipShare(c.skip_window)
        self._loss = RecentLoss(32)
        self._step = -1
        self._above = 0
        self._floor: list[int] = []

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Scale, skip mask and loss, where there is a scale that can be one."""
        values = observation.values
        scale = values.get("loss_scale")
        if scale is None or not 0.0 <= scale < _ABSURD:
            return None
        return scale, values.get("skipped"), values.get("loss")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one scale."""
        scale, skipped, loss = inputs
        assert scale is not None
        if scale == 0.0 and not self._falls.below_one:
            return None
        if step < self._step:
            self._falls.search()
        self._step = step
        overflow = (
            skipped is not None and math.isfinite(skipped) and bool(int(skipped) & _SKIP_SCALER)
        )
        fell = self._falls.push(step, scale, overflow)
        share = 0.0 if self._falls.searching else self._skips.push(overflow)
        self._above = self._above + 1 if scale > self.config.high else 0
        self._loss.follow(loss, asked=self._falls.recent)
        if scale <= 1.0 and (overflow or fell):
            self._floor = [*self._floor, self._falls.count][-self.config.stuck_overflows :]
        if fell or self._loss.row >= 2 or self._falls.count == 1:
            found = self._collapsed(step, scale, fell)
            if found is not None:
                return found
        if overflow and self._is_stuck(scale):
            words = f"overflow after overflow at a loss scale of {scale:.4g}"
            severity = Severity.CRITICAL if self._loss.row >= 2 else Severity.WARNING
            return self.hit(step, severity, 1.0, words, kind="stuck")
        if share > self.config.skip_share and self.open_kind in ("", "skips"):
            return self._too_many(step, share)
        if self._above >= self.config.high_stay and self.open_kind in ("", "climb"):
            return self._climbed(step, scale)
        return self._follow(step, scale, fell or overflow, share)

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "falls": self._falls.state(),
            "skips": self._skips.state(),
            "loss": self._loss.state(),
            "floor": list(self._floor),
            "numbers": [self._step, self._above],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._falls.restore(saved["falls"])
        self._skips.restore(saved["skips"])
        self._loss.restore(saved["loss"])
        self._floor = list(saved["floor"])
        self._step, self._above = saved["numbers"]

    def _is_stuck(self, scale: float) -> bool:
        floor = self._floor
        enough = len(floor) == self.config.stuck_overflows
        return scale <= 1.0 and enough and self._falls.count - floor[0] < 64

    def _collapsed(self, step: int, scale: float, fell: bool) -> Finding | None:
        """Say so where the scale has collapsed."""
        config, falls = self.config, self._falls
        high = self._loss.row >= (3 if falls.searching else 2)
        below = fell and scale < 1.0
        fast = not falls.searching and (
            falls.net(8) >= config.fast_halvings or falls.net(64) >= config.collapse_halvings
        )
        agree = high and falls.net(16) >= config.agree_halvings
        first = falls.count == 1 and scale < config.tiny
        if not (below or fast or agree or first):
            return None
        again = fell and self.open_kind == "collapse"
        critical = agree or (again and (scale < 1.0 or high))
        halvings = falls.net(64)
        words = f"the loss scale is {scale:.4g}"
        if halvings > 0.0:
            words = f"the loss scale fell from {falls.highest():.4g} to {scale:.4g}"
        return self.hit(
            step,
            Severity.CRITICAL if critical else Severity.WARNING,
            max(halvings / config.collapse_halvings, 1.0),
            f"{words} and the loss is up" if high else words,
            kind="collapse",
            onset=falls.since(),
            evidence={"scale": scale, "halvings": halvings},
        )

    def _too_many(self, step: int, share: float) -> Finding | None:
        words = f"the scaler dropped {share:.0%} of the last {self.config.skip_window} updates"
        score = share / self.config.skip_share
        return self.hit(step, Severity.WARNING, score, words, kind="skips")

    def _climbed(self, step: int, scale: float) -> Finding | None:
        """Say so where the scale has come up so high, rather than begun there."""
        if self._falls.climbed() < 1.0:
            return None
        severity = Severity.WARNING if scale > self.config.too_high else Severity.INFO
        words = f"the loss scale has climbed to 2^{math.log2(scale):.3g}"
        score = scale / self.config.high
        return self.hit(step, severity, score, words, kind="climb", evidence={"scale": scale})

    def _follow(self, step: int, scale: float, bad: bool, share: float) -> Finding | None:
        """The end of the open episode, when it is over."""
        episode = self._episode
        if episode is None:
            return None
        if self._kind == "climb":
            over, needed = scale <= 0.5 * self.config.high, self.config.high_stay
        elif self._kind == "skips":
            over, needed = share < 0.5 * self.config.skip_share, 1
        else:
            over, needed = not bad, self.config.calm_steps
        if over:
            return self.calm(step, needed, f"the loss scale is {scale:.4g}")
        episode.hit(step, episode.score)
        return None
