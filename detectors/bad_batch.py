"""An input batch out of the usual range: one repeated token, noise, extreme lengths or values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.odd_batches import HELD, OddBatches
from lossguard.detectors.recent_loss import RecentLoss
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_above
from lossguard.detectors.usual_range import FactorMargin, Margin, ShareMargin, UsualRange

_MOST = 1e3
"""Largest score."""
_OVER = "the batches are as usual again"
_WORDS = {
    "input_top_share": "{0:.0%} of the batch is one and the same value, where {1:.0%} was the most",
    "input_distinct_share": "{0:.0%} of the values in the batch differ, where {1:.0%} was the most",
    "input_length": "the samples have {0:.6g} elements, where {1:.6g} was the most",
    "input_absmax": "the largest input value is {0:.4g}, where {1:.4g} was the most",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BadBatchConfig:
    """Thresholds. Sources in the docstring of ``BadBatch``."""

    share_margin: float = 0.2
    """How far a share stands above the highest so far [0 < margin < 1]."""
    one_value: float = 0.9
    """Share of one value in a batch that is gross, where it is unusual [share, <= 1]."""
    length_factor: float = 4.0
    """Multiple of the longest so far [> 1]: 128 to 512 tokens, as in BERT's curriculum, is 4."""
    length_gross: float = 16.0
    """The same that is gross [>= length_factor]."""
    absmax_factor: float = 3.0
    """Multiple of the largest value so far [> 1]."""
    absmax_gross: float = 100.0
    """The same that is gross [>= absmax_factor]."""
    tail_probability: float = 1e-6
    """Chance of a usual batch beyond the tail of the largest values [0 < p < 0.01]."""
    loss_rise: float = 0.5
    """Rise of the batch's loss above its level, relative to it, that agrees [> 0]."""
    norm_rise: float = 2.0
    """The same of its gradient norm [> 0]."""
    calm_steps: int = 3
    """Usual batches in a row that end an episode [observations, >= 1]."""
    readmit: int = 32
    """Unusual batches in a row that become usual [observations, 4 to 32]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share_margin < 1.0:
            raise ValueError(f"share_margin must be in (0, 1), got {self.share_margin}")
        if not 0.0 < self.one_value <= 1.0:
            raise ValueError(f"one_value must be in (0, 1], got {self.one_value}")
        if not 1.0 < self.length_factor <= self.length_gross:
            raise ValueError(
                "1 < length_factor <= length_gross must hold, got "
                f"{self.length_factor} and {self.length_gross}"
            )
        if not 1.0 < self.absmax_factor <= self.absmax_gross:
            raise ValueError(
                "1 < absmax_factor <= absmax_gross must hold, got "
                f"{self.absmax_factor} and {self.absmax_gross}"
            )
        if not 0.0 < self.tail_probability < 0.01:
            raise ValueError(f"tail_probability must be in (0, 0.01), got {self.tail_probability}")
        require_above(self, loss_rise=0.0, norm_rise=0.0)
        if not self.calm_steps >= 1:
            raise ValueError(f"calm_steps must be >= 1, got {self.calm_steps}")
        if not 4 <= self.readmit <= HELD:
            raise ValueError(f"readmit must be in 4..{HELD}, got {self.readmit}")

    def margins(self) -> dict[str, Margin]:
        """The margin of each metric."""
        return {
            "input_top_share": ShareMargin(self.share_margin, self.one_value),
            "input_distinct_share": ShareMargin(self.share_margin, 2.0),
            "input_length": FactorMargin(self.length_factor, self.length_gross, 1e-3),
            "input_absmax": FactorMargin(
                self.absmax_factor, self.absmax_gross, self.tail_probability
            ),
        }


class BadBatch(EpisodicDetector):
    """Flag a batch whose share of one value, variety, length or largest value is out of range.

    Each metric has a range (``UsualRange``): the highest of some 2,300 accepted values. Out of it
    is a share more than 0.2 above, a length more than 4 times, a largest value more than 3 times
    the highest and beyond the extreme-value tail at 1e-6 (Hill 1975; Siffer et al., KDD 2017);
    margins are wider by 1 + 16 / n after n batches. Such a batch is a line, and a warning where
    its own loss or gradient norm stands out as well, or where it is gross: 90 % of it one value,
    16 times the length, 100 times the largest value and beyond the tail at 1e-12, or not finite.
    PaLM's and GLM-130B's spikes were cured by leaving out a few hundred batches.

    One observation is one batch. Unusual ones stay out of the range, so that they are found again;
    32 in a row, or four episodes within 64 batches (two datasets in turn), become usual. Of lines
    without agreement each metric gets three; then only what exceeds them (the last, partial batch
    of each epoch).
    """

    symptom: ClassVar[Symptom] = Symptom.BAD_BATCH
    inputs: ClassVar[tuple[str, ...]] = (
        "input_top_share",
        "input_distinct_share",
        "input_length",
        "input_absmax",
    )

    def __init__(self, config: BadBatchConfig | None = None) -> None:
        super().__init__()
        self.config = config or BadBatchConfig()
        margins = self.config.margins()
        self._usual = [UsualRange(margins[name]) for name in self.inputs]
        self._odd = OddBatches(len(self.inputs))
        self._loss = RecentLoss()
        self._norm = RecentLoss()

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """The four metrics, loss and gradient norm, where there is one of the four."""
        get = observation.values.get
        top, length = get("input_top_share"), get("input_length")
        absmax, distinct = get("input_absmax"), get("input_distinct_share")
        if top is None and length is None and absmax is None and distinct is None:
            return None
        return top, distinct, length, absmax, get("loss"), get("grad_norm")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one batch."""
        self._odd.count()
        worst, gross = -1, False
        for i, usual in enumerate(self._usual):
            value = inputs[i]
            if value is None or value <= usual.bound or gross:
                continue
            if self._is_out(i, value):
                worst, gross = i, not value <= usual.gross
        if worst < 0:
            return self._usual_batch(step, inputs)
        value = inputs[worst]
        assert value is not None
        why = self._agreement(inputs[4], inputs[5])
        begins = self._episode is None
        if not (gross or why or self._odd.is_news(worst, value, begins=begins)):
            return self.calm(step, self.config.calm_steps, _OVER)
        self._odd.hold(inputs[:4])
        if self._odd.row >= self.config.readmit:
            self._readmit()
            return self.end(step, "batches like these are usual now")
        finding = self._unusual_batch(step, worst, value, gross, why)
        if begins and self._odd.is_often():
            self._readmit()
        return finding

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "usual": [usual.state() for usual in self._usual],
            "odd": self._odd.state(),
            "loss": self._loss.state(),
            "norm": self._norm.state(),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        for usual, state in zip(self._usual, saved["usual"], strict=True):
            usual.restore(state)
        self._odd.restore(saved["odd"])
        self._loss.restore(saved["loss"])
        self._norm.restore(saved["norm"])

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._odd.row = 0

    def _is_out(self, i: int, value: float) -> bool:
        """Whether a value above its bound is one to speak of."""
        if self.inputs[i] == "input_absmax" and not math.isfinite(value):
            return True
        if not math.isfinite(value) or not self._usual[i].known:
            return False
        return value <= 1.0 or self._usual[i].is_size

    def _agreement(self, loss: float | None, norm: float | None) -> str:
        """What else stands out in this step, in words."""
        if self._loss.stands_out(loss, self.config.loss_rise):
            return f", and its loss is {loss:.4g} where {self._loss.median():.4g} is usual"
        if self._norm.stands_out(norm, self.config.norm_rise):
            usual = self._norm.median()
            return f", and its gradient norm is {norm:.4g} where {usual:.4g} is usual"
        return ""

    def _usual_batch(self, step: int, inputs: Inputs) -> Finding | None:
        self._odd.row = 0
        for usual, value in zip(self._usual, inputs, strict=False):
            if value is not None and value <= usual.bound:
                usual.accept(value)
        self._loss.push(inputs[4])
        self._norm.push(inputs[5])
        if self._episode is None:
            return None
        return self.calm(step, self.config.calm_steps, _OVER)

    def _unusual_batch(
        self, step: int, i: int, value: float, gross: bool, why: str
    ) -> Finding | None:
        usual, metric = self._usual[i], self.inputs[i]
        evidence = {"value": value, "highest": usual.highest}
        score = value / max(usual.bound, 1e-12)
        return self.hit(
            step,
            Severity.WARNING if gross or why else Severity.INFO,
            min(score, _MOST) if math.isfinite(value) else _MOST,
            _WORDS[metric].format(value, usual.highest) + why,
            metric=metric,
            evidence=evidence if math.isfinite(value) else {},
        )

    def _readmit(self) -> None:
        """Let the batches that were held back in: there are too many of them to be unusual."""
        for held in self._odd.take():
            for usual, value in zip(self._usual, held, strict=True):
                if value is not None and math.isfinite(value) and (usual.is_size or value <= 1.0):
                    usual.accept(value)
