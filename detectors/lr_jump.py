"""A learning rate that jumps outside its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.lr_collapse import RateCollapse
from lossguard.detectors.rate_peak import RatePeak
from lossguard.detectors.recent_loss import RecentLoss
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_above, require_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class LrJumpConfig:
    """Thresholds. Sources in the docstring of ``LrJump``."""

    factor: float = 3.0
    """Multiple of the highest rate so far that makes a jump [> 1]."""
    young: float = 16.0
    """It is itself multiplied by 1 + young / n after n rates [observations, >= 0]: the first rows
    of a log in epochs may hold the whole warm-up."""
    min_samples: int = 8
    """Positive rates before the first verdict [observations, >= 2]."""
    usual: float = 3.0
    """Multiple of the recent increments of log(rate) that a jump exceeds [>= 1]."""
    first_rise: float = 10.5
    """A first rise by at most this much is a note only [>= factor]: warm-ups that hold the rate
    constant end in one, by 3 (torch's ConstantLR) or 10 (He et al., CVPR 2016, section 4.2)."""
    first_steps: int = 1024
    """How long a first rise may be one [observations, >= 0]."""
    collapse: float = 1000.0
    """Factor by which a rate drops at once when it collapses [> 1]; all decays step by less."""
    stay: int = 5
    """Rates in a row that stay there [observations, >= 2]."""
    agree_within: int = 32
    """How long after a jump the loss may follow [observations, >= 2]."""
    settle: int = 256
    """Rates in a row out of schedule that become the schedule [observations, >= stay]."""
    calm_steps: int = 5
    """Rates in a row within the schedule that end an episode [observations, >= 1]."""

    def __post_init__(self) -> None:
        require_at_least(
            self,
            young=0,
            min_samples=2,
            usual=1,
            first_rise=self.factor,
            first_steps=0,
            stay=2,
            agree_within=2,
            settle=self.stay,
            calm_steps=1,
        )
        require_above(self, factor=1.0, collapse=1.0)


class LrJump(EpisodicDetector):
    """Flag a rate far above all that the run has stood, a sudden collapse, and nonsense.

    A jump: rate / peak > factor (1 + young / n) after n rates, with the peak the highest rate
    accepted so far, and log(rate / peak) > usual * u, with u the largest recent increment of the
    log of the peak (it fades by 5 % an observation). Warm-ups, cycles and finders grow in steps
    alike; warm restarts do not pass the peak (SGDR: Loshchilov and Hutter, ICLR 2017); decays
    only go down. A warning; critical once the loss leaves its level within ``agree_within``
    observations, twice in a row. A moderate first rise of a rate that was constant so far is a
    note (``first_rise``). A rate that stays becomes the schedule after ``settle`` observations.

    A collapse (``RateCollapse``), and a rate that is negative or not finite, are warnings. A step
    that goes back is a resume: the rate may begin anew.
    """

    symptom: ClassVar[Symptom] = Symptom.LR_JUMP
    inputs: ClassVar[tuple[str, ...]] = ("lr",)

    def __init__(self, config: LrJumpConfig | None = None) -> None:
        super().__init__()
        self.config = config or LrJumpConfig()
        self._collapse = RateCollapse(self.config.collapse, self.config.stay)
        self._loss = RecentLoss()
        self._peak = RatePeak()
        self._step = -1
        self._last = 0.0
        self._held = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Rate and loss, where there is a rate."""
        lr = observation.values.get("lr")
        return None if lr is None else (lr, observation.values.get("loss"))

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one rate."""
        lr, loss = inputs
        assert lr is not None
        if step < self._step:
            self._peak = RatePeak()
            self._collapse.begin()
        self._step = step
        self._loss.follow(loss, asked=self._held > 0)
        if not math.isfinite(lr) or lr < 0.0:
            words = f"the learning rate is {lr:.4g} at step {step}"
            return self.hit(step, Severity.WARNING, 1.0, words, kind="nonsense")
        if lr > self._peak.peak and self._is_jump(lr):
            return self._up(step, lr, loss)
        self._held = 0
        self._peak.accept(lr)
        return self._down(step, lr)

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "peak": self._peak.state(),
            "collapse": self._collapse.state(),
            "loss": self._loss.state(),
            "numbers": [self._step, self._last, self._held],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._peak.restore(saved["peak"])
        self._collapse.restore(saved["collapse"])
        self._loss.restore(saved["loss"])
        self._step, self._last, self._held = saved["numbers"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._collapse.drop()
        self._held = 0

    def _is_jump(self, lr: float) -> bool:
        """Whether a rate above the peak is out of schedule."""
        config, peak = self.config, self._peak
        if peak.num_rates < config.min_samples:
            return False
        if self.open_kind == "jump":
            return peak.is_still_passed(lr)
        return peak.is_passed(
            lr, config.factor * (1.0 + config.young / peak.num_rates), config.usual
        )

    def _up(self, step: int, lr: float, loss: float | None) -> Finding | None:
        """Take in a rate that has jumped."""
        config, peak = self.config, self._peak
        if self.open_kind in ("fall", "nonsense"):
            return self.calm(step, config.calm_steps, f"the learning rate is {lr:.4g}")
        self._held += 1
        if self._held >= config.settle:
            peak.accept(lr)
            self._last, self._held = lr, 0
            self._collapse.begin()
            return self.end(step, f"the learning rate has stayed at {lr:.4g}")
        size = lr / peak.peak
        first = peak.never_rose and peak.num_rates <= config.first_steps
        severity = Severity.INFO if first and size <= config.first_rise else Severity.WARNING
        times = f"{lr / self._last:.4g} times" if self._last > 0.0 else f"{size:.4g} times its peak"
        words = f"the learning rate went from {self._last:.4g} to {lr:.4g} ({times}) at step {step}"
        if self._loss.row >= 2 and self._held <= config.agree_within:
            severity = Severity.CRITICAL
            to = "" if loss is None else f" to {loss:.4g}"
            words = f"the learning rate jumped to {lr:.4g} and the loss went up{to}"
        score = peak.rise(lr) / math.log(config.factor)
        evidence = {"before": self._last, "after": lr, "peak": peak.peak}
        return self.hit(step, severity, score, words, kind="jump", evidence=evidence)

    def _down(self, step: int, lr: float) -> Finding | None:
        """Take in a rate that has not jumped: collapsed, or within the schedule."""
        config, peak = self.config, self._peak
        enough = peak.num_rates >= config.min_samples
        down = self._collapse.push(step, lr, peak.peak) if enough else 0
        self._last = lr
        if down >= config.settle:
            self._collapse.drop()
            return self.end(step, f"the learning rate has stayed at {lr:.4g}")
        if down >= config.stay:
            before, since = self._collapse.before, self._collapse.since
            words = f"the learning rate went from {before:.4g} to {lr:.4g} at step {since}"
            evidence = {"before": before, "after": lr, "peak": peak.peak}
            fall = math.log(before) - math.log(lr) if lr > 0.0 else math.inf
            score = min(fall / math.log(config.collapse), 10.0)
            return self.hit(
                step, Severity.WARNING, score, words, kind="fall", onset=since, evidence=evidence
            )
        return self.calm(step, config.calm_steps, f"the learning rate is back at {lr:.4g}")
