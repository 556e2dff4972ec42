"""A training loss that leaves its robust trend upward for one or a few steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.level import Level
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.schedule import Restarts
from lossguard.detectors.spike import RECENT, SpikeDetector
from lossguard.detectors.streaming import median
from lossguard.detectors.thresholds import require_above, require_at_least

_GROSS_RISE = 2.2
"""So far above its level, relative to it, a single loss is worth a look."""
_YOUNG = 32.0
"""Large is up to twice as much in a young run, whose noise grows as its loss falls."""
_NORMS = 32
_NORM_AGREES = 4.0
"""Multiple of the median of the last norms that makes a single hit worth a look."""
_GLOW = 0.15
_GLOW_SIGMAS = 4.0
"""Share of a hit that the next loss has kept, and its deviation, where the weights were hurt."""
_VETO_OF_DESCENT = 0.4
_VETO_FLOOR = 0.10
"""Least rise that is vetoed in a run whose loss is near zero, in descents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSpikeConfig:
    """Thresholds. Sources in the docstring of ``TrainingSpike``."""

    window: int = 9
    """Accepted losses that give the level [observations, >= 8]."""
    tail: int = 512
    """Accepted losses that give the upper tail [observations, >= 64]."""
    min_samples: int = 2
    """Losses before the first verdict [observations, >= 2]; ``young`` widens the early ones."""
    young: float = 8.0
    """The threshold is multiplied by 1 + q + q^2, q = young / n, after n losses [observations,
    >= 0]."""
    threshold: float = 6.0
    """Deviation that makes a hit [sigmas, > 0]."""
    min_rise: float = 0.03
    """Rise that makes a hit, relative to the level [> 0]. Smaller ones hurt nobody."""
    min_rise_of_descent: float = 0.02
    """Rise that makes a hit, relative to the descent of the run so far [>= 0]."""
    large_rise: float = 0.25
    """Rise that counts towards critical, relative to the level [>= min_rise]; in a young run
    up to twice as much."""
    large_rise_of_descent: float = 0.10
    """Rise that counts towards critical, relative to the descent of the run so far [>= 0]."""
    gross_rise: float = 0.5
    """Rise, relative to the level, at which twice the threshold by the recent noise makes a hit
    whatever the tail [>= min_rise]."""
    calm_steps: int = 5
    """Normal losses in a row that end an episode [observations, >= 1]."""
    readmit: int = 32
    """Hits in a row after which they become the new level [observations, >= 4]."""
    veto_deviation: float = 12.0
    """Deviation from which ``bounds`` lets the update be skipped [sigmas, >= threshold]. Where the
    loss, positive so far, has halved, ``threshold`` is enough for one that is as high as where the
    run began."""
    veto_ratio: float = 1.5
    """Multiple of the level from which it does, if that is larger [> 1]. With 1.5, one loss in
    192,000 of healthy runs was 1.8 times the level; where the run has descended far, the excess
    over 1 is therefore doubled."""

    def __post_init__(self) -> None:
        require_at_least(
            self,
            window=8,
            tail=64,
            min_samples=2,
            young=0,
            min_rise_of_descent=0,
            large_rise_of_descent=0,
            calm_steps=1,
            readmit=4,
        )
        require_above(self, threshold=0, min_rise=0, veto_ratio=1)
        if (
            min(self.large_rise, self.gross_rise) < self.min_rise
            or self.veto_deviation < self.threshold
        ):
            raise ValueError(
                f"large_rise {self.large_rise} and gross_rise {self.gross_rise} must be >= "
                f"min_rise {self.min_rise}, and "
                f"veto_deviation {self.veto_deviation} >= threshold {self.threshold}"
            )


class TrainingSpike(SpikeDetector):
    """Flag a loss far above its recent level; act when that persists.

    A hit is a loss with deviation > threshold * (1 + q + q^2), q = young / n, after n losses
    [sigmas, see ``Level``] that is also materially higher: by ``min_rise`` of the level and
    ``min_rise_of_descent`` of what the run has descended so far. In a run that spikes so often
    that its tail knows it, a rise by ``gross_rise`` and twice the threshold over the noise is a
    hit as well.

    One hit that the next loss knows nothing of is worth a line: a batch of its own kind. It is
    worth a look when another is near, when it is more than three times the level, when the gradient
    norm is up with it, or when the loss after it is still on its way down. It becomes critical
    when two hits in a row, or three of five, are large (``large_rise``); three in a row or four
    of five where the guard skipped the updates, for then waiting costs nothing and a poisoned
    batch passes by. Within ``grace`` observations of a warm restart of the learning rate, only
    a rise of half the descent is large. Hits stay out of the level; after ``readmit`` in a row
    they become it, so that a lasting shift ends its episode.

    Median, MAD of differences and a tail quantile in place of the mean + 6 sigma of OLMo-core's
    SkipStepOptimizer (Rousseeuw and Croux, JASA 88, 1993, on robust scales), and persistence
    before action. What it scores on real logs stands in docs/detection.md.
    """

    symptom: ClassVar[Symptom] = Symptom.LOSS_SPIKE
    inputs: ClassVar[tuple[str, ...]] = ("loss",)
    noun: ClassVar[str] = "the loss"
    grace: ClassVar[int] = 128

    def __init__(self, config: LossSpikeConfig | None = None) -> None:
        self.config = config or LossSpikeConfig()
        super().__init__(
            Level(self.config.window, self.config.tail),
            calm_steps=self.config.calm_steps,
            readmit=self.config.readmit,
        )
        self._restarts = Restarts(self.grace)
        self._suspects: list[int] = []
        self._norms: deque[float] = deque(maxlen=_NORMS)

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Loss, learning rate, skip mask and gradient norm, where there is a finite loss."""
        values = observation.values
        loss = values.get("loss")
        if loss is None or not math.isfinite(loss):
            return None
        return loss, values.get("lr"), values.get("skipped"), values.get("grad_norm")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one finite loss."""
        loss, lr, skipped, norm = inputs
        assert loss is not None
        restarted = self._restarts.watch(lr)
        if norm is not None and 0.0 < norm < math.inf:
            self._norms.append(norm)
        level, config = self._level, self.config
        if level.count < config.min_samples:
            level.accept(loss)
            return None
        score = self._score(loss)
        if score <= 1.0 or not level.matters(loss, config.min_rise, config.min_rise_of_descent):
            self._note_suspect(step, score)
            aftermath = self._aftermath(loss)
            ended = self.normal(step, loss)
            if ended is None and aftermath:
                return self.escalate(step, Severity.WARNING, aftermath)
            return ended
        descent = 0.5 if restarted else config.large_rise_of_descent
        young = 1.0 + min(_YOUNG / level.count, 1.0)
        large = level.matters(loss, config.large_rise * young, descent)
        self.note(large, skipped)
        onset = step
        if self._episode is None and self._suspects:
            onset, self._suspects = self._suspects[0], []
        return self.above(step, loss, score, self._severity(loss, descent), onset)

    def bounds(self) -> Mapping[str, float]:
        """The loss from which an update is better skipped."""
        level = self._level
        if level.count < 32:
            return {}
        middle, descent = level.median(), level.descent()
        few, many = self.config.veto_ratio - 1.0, 2.0 * (self.config.veto_ratio - 1.0)
        least = max(few * abs(middle), _VETO_FLOOR * descent)
        spread = max(least, min(many * abs(middle), _VETO_OF_DESCENT * descent))
        far = level.above(self.config.veto_deviation * level.scale())
        if level.log and descent >= middle:  # near zero sigmas say little: where it began does
            near = level.above(self.config.threshold * level.scale())
            far = min(far, max(near, middle + descent))
        return {"loss": max(far, middle + spread)}

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "restarts": self._restarts.state(),
            "suspects": list(self._suspects),
            "norms": list(self._norms),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._restarts.restore(saved["restarts"])
        self._suspects = list(saved["suspects"])
        self._norms = deque(saved["norms"], maxlen=_NORMS)

    def _severity(self, loss: float, of_descent: float) -> Severity:
        if self.persists():
            return Severity.CRITICAL
        gross = self._level.matters(loss, _GROSS_RISE, of_descent)
        alone = self.is_alone() and not gross and not self._norm_agrees()
        return Severity.INFO if alone else Severity.WARNING

    def _norm_agrees(self) -> bool:
        """Whether the gradient norm of this step or the one before is far up as well."""
        *before, previous, latest = self._norms if len(self._norms) >= 4 else (0.0, 0.0, 0.0)
        usual = median(before)
        return usual > 0.0 and max(previous, latest) > _NORM_AGREES * usual

    def _aftermath(self, loss: float) -> str:
        """Words for a loss that, right after a hit, is only on its way down: the weights were
        hurt. Empty where it is back at its level."""
        level, config = self._level, self.config
        young = 1.0 + min(_YOUNG / max(level.count, 1), 1.0)
        if not self._held or level.deviation(loss) <= _GLOW_SIGMAS * young:
            return ""
        middle = level.median()
        if loss - middle <= _GLOW * (self._held[-1] - middle):
            return ""
        if not level.matters(loss, config.min_rise, config.min_rise_of_descent):
            return ""
        return f"{self.message(self._held[-1])}, and still {loss:.4g} after it"

    def message(self, value: float) -> str:
        """A hit in words."""
        middle = self._level.median()
        times = f" ({value / middle:.3g} times)" if middle > 0 else ""
        return f"the loss is {value:.4g} where {middle:.4g} is usual{times}"

    def _score(self, loss: float) -> float:
        """The deviation in units of the threshold, by the tail or, where gross, by the noise."""
        level, config = self._level, self.config
        young = config.young / level.count
        threshold = config.threshold * (1.0 + young + young * young)
        score = level.deviation(loss) / threshold
        if score <= 1.0 and level.matters(loss, config.gross_rise, config.large_rise_of_descent):
            score = max(score, 0.5 * level.rise(loss) / (threshold * level.near_scale()))
        return score

    def _note_suspect(self, step: int, score: float) -> None:
        """Remember an unbroken run of half-way deviations: a spike that follows began there."""
        if score > 0.5:
            self._suspects = [*self._suspects[1 - RECENT :], step]
        elif self._suspects:
            self._suspects = []
