"""Predictions that collapse to one class or token."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.recent_loss import RecentLoss
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.streaming import median, noise
from lossguard.detectors.thresholds import require_above, require_at_least

_WINDOW = 64
"""Healthy samples that the usual values are the medians of."""
_LATELY = 8
"""Collapsed samples whose losses are compared with those of the healthy ones."""
_MEDIAN_ERROR = 1.2533
"""Standard error of a median, in sigma / sqrt(n)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputCollapseConfig:
    """Thresholds. Sources in the docstring of ``OutputCollapse``."""

    top_share: float = 0.9
    """Share of the predictions that are one class [share, 0.5 to 1]."""
    above_target: float = 0.3
    """How far that is above the share of the most frequent target [share, > 0]."""
    entropy: float = 0.1
    """Entropy, relative to its usual one, that tells where no targets are known [> 0]."""
    stay: int = 4
    """Samples in a row before a word is said [samples, >= 2]."""
    last: int = 16
    """Samples in a row before it is critical [samples, >= stay]."""
    loss_rise: float = 0.05
    """Rise of the loss above its level before, relative to it, that makes it so [> 0]."""
    target_jump: float = 0.5
    """Rise of the most frequent target's share, to ``top_share`` at least, that is a collapse of
    the data, which predictions follow [share, > 0]."""
    first: int = 64
    """Samples at the start of a run that are allowed to be of one class: models begin so [>= 0]."""
    calm_steps: int = 3
    """Healthy samples in a row that end an episode [samples, >= 1]."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.top_share <= 1.0:
            raise ValueError(f"top_share must be in 0.5..1, got {self.top_share}")
        require_above(self, above_target=0.0, entropy=0.0, loss_rise=0.0, target_jump=0.0)
        require_at_least(self, stay=2, last=self.stay, first=0, calm_steps=1)


class OutputCollapse(EpisodicDetector):
    """Flag a model that predicts one class nearly always where the targets are many.

    A sample is collapsed when top_token_share >= 0.9 and >= the target's share + 0.3, the latter
    being the larger of this sample's and the usual one: in data of which 95 % is one class,
    predicting it is no collapse. Where no targets were measured, the entropy must be below 0.1 of
    its usual value instead. Predictions that follow targets of which 90 % are suddenly one class,
    by 0.5 more than usual, are collapsed too: that is padding, or an end-of-sequence token, that
    has got into the loss. Four samples in a row are a warning; critical after 16 if the median of
    the last 8 losses is above that of the healthy samples by 5 % and by 4 standard errors. Usual
    values are medians of the last 64 healthy samples.

    But for targets that collapse, nothing is said of the first 64 samples, for a fresh language
    model passes a stage in which it predicts the commonest token only; nor after them while no
    sample was healthy and the loss still falls.
    """

    symptom: ClassVar[Symptom] = Symptom.OUTPUT_COLLAPSE
    inputs: ClassVar[tuple[str, ...]] = (
        "top_token_share",
        "output_entropy",
        "target_top_share",
        "loss",
    )

    def __init__(self, config: OutputCollapseConfig | None = None) -> None:
        super().__init__()
        self.config = config or OutputCollapseConfig()
        self._entropy: deque[float] = deque(maxlen=_WINDOW)
        self._target: deque[float] = deque(maxlen=_WINDOW)
        self._loss = RecentLoss(_WINDOW)
        self._lately: deque[float] = deque(maxlen=_LATELY)
        self._samples = 0
        self._healthy = 0
        self._row = 0
        self._since = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Shares, entropy and loss, where the most frequent prediction was sampled."""
        values = observation.values
        top = values.get("top_token_share")
        if top is None or not 0.0 <= top <= 1.0:
            return None
        return (
            top,
            values.get("output_entropy"),
            values.get("target_top_share"),
            values.get("loss"),
        )

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one sample of the predictions."""
        top, entropy, target, loss = inputs
        assert top is not None
        self._samples += 1
        followed = self._target_collapsed(target)
        if top >= self.config.top_share and (followed or self._is_collapsed(top, entropy, target)):
            return self._collapsed(step, top, loss, target if followed else None)
        self._row = 0
        self._healthy += 1
        if entropy is not None and 0.0 <= entropy <= 1.0:
            self._entropy.append(entropy)
        if target is not None and 0.0 <= target <= 1.0:
            self._target.append(target)
        self._loss.push(loss)
        words = f"the most frequent prediction is {top:.0%} of all"
        return self.calm(step, self.config.calm_steps, words) if self._episode else None

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "entropy": list(self._entropy),
            "target": list(self._target),
            "loss": self._loss.state(),
            "lately": list(self._lately),
            "numbers": [self._samples, self._healthy, self._row, self._since],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._entropy = deque(saved["entropy"], maxlen=_WINDOW)
        self._target = deque(saved["target"], maxlen=_WINDOW)
        self._loss.restore(saved["loss"])
        self._lately = deque(saved["lately"], maxlen=_LATELY)
        self._samples, self._healthy, self._row, self._since = saved["numbers"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._row = 0

    def _target_collapsed(self, target: float | None) -> bool:
        """Whether the targets are suddenly of one class."""
        if target is None or not self.config.top_share <= target <= 1.0:
            return False
        if len(self._target) < self.config.stay:
            return False
        return target - median(list(self._target)) >= self.config.target_jump

    def _is_collapsed(self, top: float, entropy: float | None, target: float | None) -> bool:
        usual = median(list(self._target)) if self._target else 0.0
        if target is not None and 0.0 <= target <= 1.0:
            return top >= max(target, usual) + self.config.above_target
        if self._target:
            return top >= usual + self.config.above_target
        if entropy is None or not math.isfinite(entropy) or not self._entropy:
            return False
        return entropy < self.config.entropy * median(list(self._entropy))

    def _collapsed(
        self, step: int, top: float, loss: float | None, followed: float | None
    ) -> Finding | None:
        """Take in a collapsed sample, and the share of the target that it follows, if it does."""
        config = self.config
        self._row += 1
        if self._row == 1:
            self._since = step
            self._lately.clear()
        if loss is not None and math.isfinite(loss):
            self._lately.append(loss)
        never = self._healthy < config.stay
        if never:
            self._loss.push(loss)
        if followed is None and (self._samples <= config.first or (never and self._falls())):
            return None
        if self._row < config.stay:
            return None
        high = not never and self._row >= config.last and self._above(loss)
        usual = f"{median(list(self._target)):.0%}" if self._target else "fewer"
        words = f"{top:.0%} of the predictions are one class, where {usual} of the targets are"
        if followed is not None:
            words = (
                f"{followed:.0%} of the targets are one class where {usual} were, and {top:.0%} of "
                "the predictions follow: padding or end-of-sequence in the loss?"
            )
        return self.hit(
            step,
            Severity.CRITICAL if high else Severity.WARNING,
            self._row / config.stay,
            f"{words}, and the loss is up" if high else words,
            onset=self._since,
            evidence={"top_share": top, "samples": float(self._row)},
        )

    def _above(self, loss: float | None) -> bool:
        """Whether the losses of late are above their level while the samples were healthy."""
        if loss is not None and not math.isfinite(loss):
            return True
        if len(self._lately) < _LATELY:
            return False
        level, sigma = self._loss.median(), noise(self._loss.values())
        error = _MEDIAN_ERROR * sigma / math.sqrt(_LATELY)
        least = max(self.config.loss_rise * abs(level), 4.0 * error)
        return median(list(self._lately)) - level > least

    def _falls(self) -> bool:
        """Whether the loss of a run that was never healthy is still on its way down."""
        losses = self._loss.values()
        if len(losses) < 16:
            return False
        quarter = len(losses) // 4
        fall = median(losses[:quarter]) - median(losses[-quarter:])
        error = _MEDIAN_ERROR * noise(losses) * math.sqrt(2.0 / quarter)
        return fall > max(0.01 * abs(median(losses)), 2.0 * error)
