"""Validation loss that rises while the training loss does not."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.change_point import onset_index
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.evaluations import Evaluation, Evaluations
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.streaming import median, noise
from lossguard.detectors.thresholds import require_above, require_at_least
from lossguard.detectors.trend import mann_kendall, theil_sen

_LOSSES = 64
"""Latest training losses of which a level is taken."""


_BACK = 7
"""Latest evaluations whose median tells whether the loss is back."""
_FEW = 10
"""Evaluations up to which a trend is all of them rising."""
_LARGEST = 1e30
"""Losses are clipped to it, so that their differences stay finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverfittingConfig:
    """Thresholds. Sources in the docstring of ``Overfitting``."""

    ratio: float = 1.1
    """Validation loss, relative to the best, that is overfitting if it stays [> 1]."""
    persist: int = 3
    """Evaluations in a row above it [>= 2]."""
    patience: int = 5
    """Evaluations without an improvement after which a rising trend counts [>= 3]: the patience
    of common early stopping."""
    min_delta: float = 0.001
    """An improvement, relative to the best [>= 0]: the usual delta of early stopping."""
    trend_sigmas: float = 5.0
    """Significance of the rising trend, by the Mann-Kendall test [sigmas, > 0]: it is tested at
    each evaluation."""
    trend_rise: float = 0.03
    """Size of the rising trend, relative to the best [> 0]."""
    own_noise: float = 3.0
    """Rise in units of the evaluations' own noise, besides the luck of the best [sigmas, > 0]."""
    of_descent: float = 0.01
    """Rise relative to how far the validation loss had come down [>= 0]: below it lies the
    flicker of a loss close to zero."""

    def __post_init__(self) -> None:
        if not self.ratio > 1.0:
            raise ValueError(f"ratio must be > 1, got {self.ratio}")
        require_at_least(self, persist=2, patience=3, min_delta=0, of_descent=0)
        require_above(self, trend_sigmas=0, trend_rise=0, own_noise=0)


class Overfitting(EpisodicDetector):
    """Two ways in which the validation loss leaves its best while the training loss does not.

    With v[i] the evaluations, b the smallest median of three in a row, s the noise of v from its
    second differences (``flicker``) and t the training loss (median of at most 64 since the
    evaluation before):

    * *far*: the last ``persist`` v all exceed ``ratio`` * b and b + (``own_noise`` + l) * s, with t
      no higher than at the best. l is the luck of the best of so many (``Evaluations.luck``);
    * *trend*: no improvement of ``min_delta`` * b for ``patience`` evaluations, and t fell. Fewer
      than ten since the best all rise, by ``trend_rise`` * b and beyond that noise; or the
      Mann-Kendall statistic of the whole curve since the best, in at most 48 blocks, is at least
      ``trend_sigmas`` and its rise by Theil-Sen ``trend_rise`` * b.

    For losses that are not positive the shares of b are shares of the descent of v. A rise is
    also to be ``of_descent`` of that. Where the training loss rises as well, that is divergence,
    and where there is none, nothing is said. Always a warning: early stopping (Prechelt 1998) is
    for the user to decide. The onset is the step of the best evaluation, or where a long flat
    stretch after it was left (``change_point``). The episode ends when the validation loss is
    back half of the way, or better than ever. The rank tests are only made on a rise.
    """

    symptom: ClassVar[Symptom] = Symptom.OVERFITTING
    inputs: ClassVar[tuple[str, ...]] = ("val_loss", "loss")

    def __init__(self, config: OverfittingConfig | None = None) -> None:
        super().__init__()
        self.config = config or OverfittingConfig()
        self._losses: deque[float] = deque(maxlen=_LOSSES)
        self._train: float | None = None
        self._seen = Evaluations(self.config.min_delta)
        self._opened_at = 0.0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Both losses, where at least one is finite."""
        val, loss = observation.get("val_loss"), observation.get("loss")
        if val is None or not math.isfinite(val):
            return None if loss is None or not math.isfinite(loss) else (None, loss)
        return val, loss if loss is not None and math.isfinite(loss) else None

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one loss, or one evaluation."""
        val, loss = inputs
        if loss is not None:
            self._losses.append(_clipped(loss))
        if val is None:
            return None
        if self._losses:
            self._train = median(list(self._losses))
            self._losses.clear()
        if self._train is None:
            return None
        if self._seen.push(step, _clipped(val), self._train):
            return self.end(step, f"the validation loss is better than ever: {val:.4g}")
        if self._episode is None:
            return self._look(step)
        level = median([e.val for e in self._seen.latest(_BACK)])
        if level - self._seen.level > 0.5 * self._opened_at:
            self._episode.hit(step, self._episode.score)
            return None
        return self.calm(step, 2, f"the validation loss is back at {level:.4g}")

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "losses": list(self._losses),
            "train": self._train,
            "seen": self._seen.state(),
            "opened_at": self._opened_at,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._losses = deque(saved["losses"], maxlen=_LOSSES)
        self._train = saved["train"]
        self._seen.restore(saved["seen"])
        self._opened_at = saved["opened_at"]

    def _look(self, step: int) -> Finding | None:
        """Open an episode if the latest evaluations call for one."""
        seen, config = self._seen, self.config
        best = seen.best
        if best is None or seen.since < config.persist:
            return None
        recent = seen.latest(config.persist)
        lowest = min(e.val for e in recent)
        if lowest <= seen.level:
            return None
        flicker, train_flicker = seen.flicker()
        least = config.of_descent * seen.descent()
        noise_bound = (config.own_noise + seen.luck()) * flicker
        far = max(self._share(config.ratio - 1.0), noise_bound, least)
        train = median([e.train for e in recent])
        if lowest - seen.level > far and train <= best.train + train_flicker:
            return self._found(step, best, median([e.val for e in recent]) - seen.level, far)
        slow = max(self._share(config.trend_rise), least)
        rise = self._trend(noise_bound)
        return self._found(step, best, rise, slow) if rise > slow and train < best.train else None

    def _share(self, share: float) -> float:
        """A share of the best, or of the descent where the best is not positive."""
        level = self._seen.level
        return share * (level if level > 0.0 else self._seen.descent())

    def _trend(self, noise_bound: float) -> float:
        """How far the evaluations since the best have risen, if they have significantly."""
        seen = self._seen
        if seen.since < self.config.patience:
            return 0.0
        if seen.since < _FEW:
            values = [e.val for e in seen.since_best()]
            rise = values[-1] - seen.level
            steady = all(a < b for a, b in itertools.pairwise(values))
            return rise if steady and rise > noise_bound else 0.0
        values = seen.curve.medians
        if values[-1] <= values[0]:
            return 0.0
        rise = theil_sen(values) * len(values)
        return rise if mann_kendall(values) >= self.config.trend_sigmas else 0.0

    def _found(self, step: int, best: Evaluation, rise: float, least: float) -> Finding | None:
        latest = self._seen.latest(3)
        now = latest[-1]
        self._opened_at = median([e.val for e in latest]) - self._seen.level
        fell = "fell" if now.train < best.train else "did not rise"
        return self.hit(
            step,
            Severity.WARNING,
            rise / least if least > 0.0 else 1.0,
            f"the validation loss is {now.val:.4g} where it was {best.val:.4g}, and the training "
            f"loss {fell} ({best.train:.4g} to {now.train:.4g}): best checkpoint by validation "
            f"loss was at step {best.step}",
            onset=self._date(best, rise),
            evidence={
                "best": best.val,
                "best_step": float(best.step),
                "val_loss": now.val,
                "train_then": best.train,
                "train_now": now.train,
            },
        )

    def _date(self, best: Evaluation, rise: float) -> int:
        """The last evaluation before the rise."""
        since = self._seen.since_best()
        values = [e.val for e in since]
        slack = min(noise(values), 0.5 * rise)
        first = onset_index(values, self._seen.level, slack, max(rise, 1e-300))
        return since[first - 1].step if first else best.step


def _clipped(loss: float) -> float:
    return min(max(loss, -_LARGEST), _LARGEST)
