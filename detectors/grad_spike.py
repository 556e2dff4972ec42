"""A gradient norm, before clipping, far above its usual size."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episode import Episode
from lossguard.detectors.level import Level
from lossguard.detectors.rewinding import Inputs, RewindingDetector

_GUARDED = 1 | 2 | 4 | 8
"""The wire's SKIP_NONFINITE, SKIP_GRAD_NORM, SKIP_LOSS and SKIP_COMMAND."""
_RECENT = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class GradSpikeConfig:
    """Thresholds. Sources in the docstring of ``GradSpike``."""

    window: int = 64
    """Accepted norms that give the level [observations, >= 8]."""
    tail: int = 512
    """Accepted norms that give the upper tail [observations, >= 64]."""
    min_samples: int = 20
    """Norms before the first verdict, absurd ones apart [observations, >= 4]: warm-up."""
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
        for name, least in {
            "window": 8, "tail": 64, "min_samples": 4, "young": 0, "calm_steps": 1, "readmit": 4,
        }.items():  # fmt: skip
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
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


class GradSpike(RewindingDetector):
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

    def __init__(self, config: GradSpikeConfig | None = None) -> None:
        super().__init__()
        self.config = config or GradSpikeConfig()
        self._level = Level(self.config.window, self.config.tail, most_sigmas=math.inf)
        self._loss = Level(16, 64)
        self._held: list[float] = []
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._absurd_at: int | None = None
        self._episode: Episode | None = None

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
        if norm <= self._least_bound() or norm <= (bound := self._bound()):
            self._recent.append(0)
            self._held.clear()
            self._level.accept(norm)
            escalated = self._escalate_absurd(step, norm, agrees)
            return escalated or self._calm(step)
        guarded = skipped is not None and math.isfinite(skipped) and int(skipped) & _GUARDED
        self._recent.append(2 if guarded else 1)
        self._held.append(norm)
        return self._hit(step, norm, norm / bound, agrees, bool(guarded))

    def bounds(self) -> Mapping[str, float]:
        """The norm from which an update is better skipped."""
        bound = self._bound()
        if self._level.count < self.config.min_samples:
            bound = self.config.hard_bound or math.inf
        return {"grad_norm": bound} if math.isfinite(bound) else {}

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return {
            "level": self._level.state(),
            "loss": self._loss.state(),
            "held": list(self._held),
            "recent": list(self._recent),
            "absurd_at": self._absurd_at,
            "episode": self._episode.state() if self._episode else None,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        self._level.restore(saved["level"])
        self._loss.restore(saved["loss"])
        self._held = list(saved["held"])
        self._recent = deque(saved["recent"], maxlen=_RECENT)
        self._absurd_at = saved["absurd_at"]
        self._episode = Episode.from_state(saved["episode"]) if saved["episode"] else None

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        self._episode = None
        self._absurd_at = None
        self._held.clear()
        self._recent.clear()

    def _least_bound(self) -> float:
        """The bound without the tail, which need not be looked at below it."""
        level, config = self._level, self.config
        hard = config.hard_bound or math.inf
        if level.count < 4:
            return hard
        ratio = config.multiple * (1.0 + config.young / level.count)
        if level.count < config.min_samples:
            ratio = max(ratio, 10.0 * config.absurd)
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

    def _hit(
        self, step: int, norm: float, score: float, agrees: bool, guarded: bool
    ) -> Finding | None:
        episode = self._episode
        persists = self._persists() or (self._absurd_at is not None and agrees)
        absurd = norm > self.config.absurd * self._level.median() if self._level.count else False
        self._absurd_at = step if absurd and not guarded else None
        severity = Severity.CRITICAL if persists else Severity.WARNING
        if episode is None:
            self._episode = Episode(step, severity, step, score)
            return self._finding(step, severity, score, self._message(norm))
        episode.hit(step, score)
        if len(self._held) >= self.config.readmit:
            self._level.rebase(self._held)
            self._held.clear()
            self._recent.clear()
            return self._end(step, f"the gradient norm settled at {self._level.median():.3g}")
        if persists and episode.severity is Severity.WARNING:
            episode.severity = Severity.CRITICAL
            return self._finding(step, severity, score, self._message(norm))
        return None

    def _escalate_absurd(self, step: int, norm: float, agrees: bool) -> Finding | None:
        """An absurd gradient, applied, left a loss that is up: the weights were hurt."""
        absurd_at, self._absurd_at = self._absurd_at, None
        episode = self._episode
        if absurd_at is None or not agrees or episode is None:
            return None
        if episode.severity is Severity.CRITICAL:
            return None
        episode.severity = Severity.CRITICAL
        message = f"the gradient at step {absurd_at} was applied and the loss rose after it"
        return self._finding(step, Severity.CRITICAL, episode.score, message)

    def _persists(self) -> bool:
        """Two hits in a row or three of five; one more where updates were skipped."""
        recent = list(self._recent)
        need = 3 if 2 in recent else 2
        in_a_row = len(recent) >= need and all(recent[-need:])
        return in_a_row or sum(1 for hit in recent if hit) > need

    def _calm(self, step: int) -> Finding | None:
        episode = self._episode
        if episode is None:
            return None
        episode.calm += 1
        if episode.calm < self.config.calm_steps:
            return None
        return self._end(step, f"the gradient norm is back at {self._level.median():.3g}")

    def _end(self, step: int, message: str) -> Finding:
        episode = self._episode
        assert episode is not None
        finding = self._finding(step, episode.severity, episode.score, message, episode.last_hit)
        self._episode = None
        return finding

    def _message(self, norm: float) -> str:
        if not self._level.count:
            return f"the gradient norm is {norm:.3g}, above the hard bound"
        middle = self._level.median()
        return (
            f"the gradient norm is {norm:.3g} where {middle:.3g} is usual "
            f"({norm / middle:.3g} times)"
        )

    def _finding(
        self, step: int, severity: Severity, score: float, message: str, end: int | None = None
    ) -> Finding:
        assert self._episode is not None
        middle = self._level.median() if self._level.count else 0.0
        return Finding(
            symptom=self.symptom,
            severity=severity,
            metric="grad_norm",
            onset_step=self._episode.onset_step,
            detected_step=step,
            score=score,
            message=message,
            end_step=end,
            evidence={"level": middle, "hits": float(sum(map(bool, self._recent)))},
        )
