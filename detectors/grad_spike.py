"""A gradient norm, before clipping, far above its usual size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.level import Level
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.spike import SpikeDetector
from lossguard.detectors.thresholds import require_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class GradSpikeConfig:
    """Thresholds. Sources in the docstring of ``GradSpike``."""

    window: int = 64
    """Accepted norms that give the level [observations, >= 8]."""
    tail: int = 512
    """Accepted norms that give the upper tail [observations, >= 64]."""
    min_samples: int = 20
    """Norms before the tail is asked and a veto is advised [observations, >= 4]: warm-up, in
    which one hit is worth a line and more are worth a look."""
    young: float = 16.0
    """The multiple is itself multiplied by 1 + young / n after n norms [observations, >= 0]."""
    multiple: float = 10.0
    """Multiple of the median that makes a hit [> 1]. Megatron's large-gradient rule uses 10."""
    tail_probability: float = 1e-5
    """Chance per step of a healthy norm beyond the tail bound [0 < p < 0.01]: the false-alarm
    budget."""
    absurd: float = 100.0
    """Multiple of the median at which one hit suffices, if the next loss agrees [> multiple]."""
    loss_agrees: float = 1.3
    """Multiple of the recent loss that agrees [> 1]."""
    hard_bound: float | None = None
    """A norm above it is always a hit, from the first step on [gradient units, > 0]."""
    calm_steps: int = 5
    """Normal norms in a row that end an episode [observations, >= 1]."""
    readmit: int = 32
    """Hits in a row after which they become the new level [observations, >= 4]."""

    def __post_init__(self) -> None:
        require_at_least(self, window=8, tail=64, min_samples=4, young=0, calm_steps=1, readmit=4)
        if not 1.0 < self.multiple < self.absurd:
            raise ValueError(
                f"1 < multiple < absurd must hold, got {self.multiple} and {self.absurd}"
            )
        if not 0.0 < self.tail_probability < 0.01:
            raise ValueError(f"tail_probability must be in (0, 0.01), got {self.tail_probability}")
        if not self.loss_agrees > 1.0:
            raise ValueError(f"loss_agrees must be > 1, got {self.loss_agrees}")
        if self.hard_bound is not None and not self.hard_bound > 0.0:
            raise ValueError(f"hard_bound must be > 0, got {self.hard_bound}")


class GradSpike(SpikeDetector):
    """Flag a gradient norm far above its running median and beyond its own tail.

    bound = median * max(multiple * (1 + young / n), exp(tail bound)), all over accepted norms
    [gradient units]; the tail bound is the extreme-value one of ``Level.tail_bound`` at
    ``tail_probability`` (SPOT: Siffer et al., KDD 2017; Hill 1975), which keeps runs with
    naturally wild gradients quiet. The norm must be the one before clipping.

    One hit is a warning. It becomes critical when two hits in a row or three of five are seen
    (one more where the guard skipped the updates: the weights are safe and a poisoned batch
    passes by), or when the norm was absurd and the loss that the update led to is up as well
    (``loss_agrees``). In BLOOM's spike the norm went 0.24, 0.95, 2.4, 16, 145, 960 and the loss
    followed at the last.
    """

    symptom: ClassVar[Symptom] = Symptom.GRAD_SPIKE
    inputs: ClassVar[tuple[str, ...]] = ("grad_norm",)
    noun: ClassVar[str] = "the gradient norm"

    def __init__(self, config: GradSpikeConfig | None = None) -> None:
        self.config = config or GradSpikeConfig()
        super().__init__(
            Level(self.config.window, self.config.tail, most_sigmas=math.inf),
            calm_steps=self.config.calm_steps,
            readmit=self.config.readmit,
        )
        self._loss = Level(16, 64)
        self._absurd_at: int | None = None

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Norm, loss and skip mask, where there is a finite positive norm."""
        norm = observation.get("grad_norm")
        if norm is None or not math.isfinite(norm) or norm <= 0.0:
            return None
        return norm, observation.get("loss"), observation.get("skipped")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one finite norm."""
        norm, loss, skipped = inputs
        assert norm is not None
        agrees = self._loss_agrees(loss)
        absurd_before, self._absurd_at = self._absurd_at, None
        if norm <= self._least_bound() or norm <= (bound := self._bound()):
            ended = self.normal(step, norm)
            if absurd_before is not None and agrees and self._episode is not None:
                words = f"the gradient at step {absurd_before} was applied and the loss rose after"
                return self.escalate(step, Severity.CRITICAL, words)
            return ended
        vetoed = self.note(True, skipped)
        critical = self.persists() or (absurd_before is not None and agrees)
        absurd = self._level.count > 0 and norm > self.config.absurd * self._level.median()
        self._absurd_at = step if absurd and not vetoed else None
        if self._level.count < self.config.min_samples:
            hard = norm > (self.config.hard_bound or math.inf)
            severity = Severity.INFO if self.is_alone() and not hard else Severity.WARNING
        else:
            severity = Severity.CRITICAL if critical else Severity.WARNING
        return self.above(step, norm, norm / bound, severity)

    def bounds(self) -> Mapping[str, float]:
        """The norm from which an update is better skipped."""
        bound = self._bound()
        if self._level.count < self.config.min_samples:
            bound = self.config.hard_bound or math.inf
        return {"grad_norm": bound} if math.isfinite(bound) else {}

    def hard_bounds(self) -> Mapping[str, float]:
        """The norm that the user has set."""
        hard = self.config.hard_bound
        return {} if hard is None else {"grad_norm": hard}

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {"loss": self._loss.state(), "absurd_at": self._absurd_at}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._loss.restore(saved["loss"])
        self._absurd_at = saved["absurd_at"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._absurd_at = None

    def message(self, value: float) -> str:
        """A hit in words."""
        hard = self.config.hard_bound
        middle = self._level.median() if self._level.count else math.inf
        if hard is not None and value > hard and value < self.config.multiple * middle:
            return f"the gradient norm is {value:.3g}, above the bound of {hard:.3g} that was set"
        times = f"({value / middle:.3g} times)"
        return f"the gradient norm is {value:.3g} where {middle:.3g} is usual {times}"

    def _least_bound(self) -> float:
        """The bound without the tail, which need not be looked at below it."""
        level, config = self._level, self.config
        hard = config.hard_bound or math.inf
        if level.count < 4:
            return hard
        ratio = config.multiple * (1.0 + config.young / level.count)
        return min(hard, level.median() * ratio)

    def _bound(self) -> float:
        level, config = self._level, self.config
        least = self._least_bound()
        if level.count < config.min_samples:
            return least
        tail = level.above(level.tail_bound(config.tail_probability))
        return min(config.hard_bound or math.inf, max(least, tail))

    def _loss_agrees(self, loss: float | None) -> bool:
        """Whether the loss is well above its recent level (and take it in if not)."""
        if loss is None or not math.isfinite(loss):
            return False
        level = self._loss
        rise = self.config.loss_agrees - 1.0
        if level.count >= 4 and self._held and level.matters(loss, rise, 0.1):
            return level.deviation(loss) > 6.0
        level.accept(loss)
        return False
