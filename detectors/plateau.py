"""A loss that never moved, that is stuck above where it was, or that has been flat for long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.flatness import (
    Flat,
    flat_half,
    learnt_nothing,
    lowest,
    uniform_classes,
)
from lossguard.detectors.grain import Grain, row_inputs
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.run_curve import RunCurve
from lossguard.detectors.streaming import median, noise
from lossguard.detectors.stuck import LEAST_RATIO, Stuck
from lossguard.detectors.thresholds import require_at_least

_BLOCKS = 64
_SAME = 1e-3
"""Relative difference up to which two losses are the same number."""
_STILL = 16
"""Losses in a row that are."""
_DECAYED = 0.1
"""Learning rate, relative to its peak, at which no more progress is to be expected."""
_EVERY = 16
"""The curve is looked at whenever the run has grown by one part in that many."""
_NOTHING, _STUCK, _FLAT = "nothing learnt", "stuck", "flat"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlateauConfig:
    """Thresholds. Sources in the docstring of ``Plateau``."""

    patience: int = 200
    """Losses without progress from the start [observations, >= 16]."""
    patience_epochs: int = 20
    """The same where each row of a log is an epoch [observations, >= 8]."""
    min_progress: float = 0.02
    """Fall, relative to the initial loss, that is progress [0 < x < 0.5]."""
    stuck: int = 96
    """Losses that stand still above the best [observations, >= 16]."""
    stuck_epochs: int = 12
    """The same where each row is an epoch [observations, >= 8]."""
    stuck_share: float = 0.33
    """Share of the descent so far, in logarithms, that was lost [0 < x < 1]."""
    flat: int = 400
    """Losses of which the latter half is to be flat for an ``info`` [observations, >= 32]."""
    flat_epochs: int = 30
    """The same where each row is an epoch [observations, >= 24]."""
    flat_progress: float = 0.01
    """Fall, relative to the level, that the flat half must not hold [0 < x < 0.5]."""

    def __post_init__(self) -> None:
        require_at_least(
            self, patience=16, patience_epochs=8, stuck=16, stuck_epochs=8, flat=32, flat_epochs=24
        )
        for name, most in {"min_progress": 0.5, "stuck_share": 1.0, "flat_progress": 0.5}.items():
            if not 0.0 < getattr(self, name) < most:
                raise ValueError(f"{name} must be in (0, {most}), got {getattr(self, name)}")


class Plateau(EpisodicDetector):
    """Three ways in which a loss makes no progress beyond its noise.

    * *Nothing learnt*, a warning: after ``patience`` losses the fall from the first eighth to the
      last quarter of the run, plus 2.5 standard errors, is below ``min_progress``
      (``learnt_nothing``); or the loss is one number, that of guessing alike, 16 times in a row.
      While the learning rate is still rising to new heights nothing is counted.
    * *Stuck*, a warning: the last ``stuck`` losses stand still far above the best (``Stuck``): it
      blew up and does not come back.
    * *Flat*, an ``info``: after ``flat`` losses the latter half of the run surely fell by less
      than ``flat_progress`` (``flat_half``). Convergence looks like this, so it is no trouble;
      not said when the learning rate has decayed to a tenth.

    Levels are medians of blocks of the whole run (``RunCurve``) and standard errors come from the
    differences of neighbouring blocks (von Neumann 1941), so that a noisy loss is waited for. A
    log that holds a validation loss or a new epoch on each row is one of epochs, and has the
    ``_epochs`` thresholds. The episode ends when the loss leaves the level.
    """

    symptom: ClassVar[Symptom] = Symptom.PLATEAU
    inputs: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, config: PlateauConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or PlateauConfig()
        self._grain = Grain()
        self._curve = RunCurve(_BLOCKS)
        self._stuck = Stuck(c.stuck_share, 2 * max(c.stuck, c.stuck_epochs))
        self._first: list[float] = []
        self._best = math.inf
        self._peak_lr = 0.0
        self._lr: float | None = None
        self._settled = 0
        self._last = math.inf
        self._still = 0
        self._next = 0
        self._level = 0.0
        self._before = 0.0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Loss, learning rate, validation loss and epoch, where there is a loss."""
        return row_inputs(observation)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one row."""
        loss, lr, val, epoch = inputs
        self._grain.push(loss, val, epoch)
        if loss is None:
            return None
        self._watch_lr(lr)
        self._watch_stillness(loss)
        self._stuck.push(step, loss)
        closed = self._curve.push(step, loss)
        if closed:
            self._best = lowest(self._curve.medians)
        if self._episode is not None:
            return self._follow(step)
        return self._look(step, closed)

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "grain": self._grain.state(),
            "curve": self._curve.state(),
            "stuck": self._stuck.state(),
            "first": list(self._first),
            "best": self._best,
            "lr": [self._peak_lr, self._lr, self._settled],
            "still": [self._last, self._still],
            "next": self._next,
            "levels": [self._before, self._level],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._grain.restore(saved["grain"])
        self._curve.restore(saved["curve"])
        self._stuck.restore(saved["stuck"])
        self._first = list(saved["first"])
        self._best = saved["best"]
        self._peak_lr, self._lr, self._settled = saved["lr"]
        self._last, self._still = saved["still"]
        self._next = saved["next"]
        self._before, self._level = saved["levels"]

    def _watch_lr(self, lr: float | None) -> None:
        """Count the losses since the learning rate last rose to a new height."""
        self._settled += 1
        if lr is not None and math.isfinite(lr):
            self._lr = lr
            if lr > 1.001 * self._peak_lr:
                self._peak_lr, self._settled = lr, 0

    def _watch_stillness(self, loss: float) -> None:
        """Count the losses in a row that are the same number; keep the first losses."""
        if len(self._first) < 3:
            self._first.append(loss)
        self._still = self._still + 1 if abs(loss - self._last) <= _SAME * abs(loss) else 0
        self._last = loss

    def _by_grain(self, steps: int, epochs: int) -> int:
        return epochs if self._grain.epochs else steps

    def _look(self, step: int, closed: bool) -> Finding | None:
        """Open an episode if there is a plateau."""
        config = self.config
        if self._still >= _STILL and self._settled >= _STILL:
            classes = uniform_classes(self._last)
            if classes is not None:
                text = f"the loss is {self._last:.4g} and does not move"
                slack = config.min_progress * self._last
                since = self._stuck.since(self._last - slack, self._last + slack)
                return self._found(step, _NOTHING, Flat(since, self._last, self._last), text)
        length = self._by_grain(config.stuck, config.stuck_epochs)
        if self._curve.count % max(1, length // 12) == 0 and self._best < math.inf:
            flat = self._stuck.verdict(length, self._best, median(self._first))
            if flat is not None:
                text = f"the loss is stuck at {flat.level:.4g} where it had been {flat.before:.4g}"
                return self._found(step, _STUCK, flat, text)
        return self._look_at_curve(step) if closed else None

    def _look_at_curve(self, step: int) -> Finding | None:
        config, curve = self.config, self._curve
        if curve.count < self._next:
            return None
        self._next = curve.count + curve.count // _EVERY
        first, (now, error) = median(self._first), self._now()
        flat = None
        if self._settled >= self._by_grain(config.patience, config.patience_epochs):
            flat = learnt_nothing(curve, first, config.min_progress)
        if flat is not None and self._stays(_NOTHING, flat, now, error):
            text = (
                f"the loss has not moved in {curve.count} observations: {flat.level:.4g} "
                f"where it was {flat.before:.4g}"
            )
            return self._found(step, _NOTHING, flat, text)
        if self._settled < self._by_grain(config.flat, config.flat_epochs):
            return None
        if self._lr is not None and self._lr < _DECAYED * self._peak_lr:
            return None
        flat = flat_half(curve, config.flat_progress)
        if flat is None or not self._stays(_FLAT, flat, now, error):
            return None
        least = (1.0 - config.min_progress) * first
        if flat.level >= least > 0.0 and self._best >= least - config.min_progress * first:
            text = f"the loss is flat at {flat.level:.4g}, no better than the first, {first:.4g}"
            return self._found(step, _NOTHING, flat, text)
        text = f"the loss has been flat at {flat.level:.4g} since step {flat.since}"
        return self._found(step, _FLAT, flat, text)

    def _found(self, step: int, kind: str, flat: Flat, text: str) -> Finding | None:
        severity = Severity.INFO if kind == _FLAT else Severity.WARNING
        level = median(self._curve.medians) if self._curve.count > 64 else flat.level
        classes = uniform_classes(level) if kind == _NOTHING else None
        if classes is not None:
            text += f"; ln {classes} is what guessing alike among {classes} classes gives"
        self._before, self._level = flat.before, flat.level
        evidence = {"before": flat.before, "level": flat.level}
        lost = flat.level / flat.before if kind == _STUCK and flat.before > 0.0 else 1.0
        score = max(1.0, math.log(lost) / math.log(LEAST_RATIO))
        return self.hit(step, severity, score, text, kind=kind, onset=flat.since, evidence=evidence)

    def _follow(self, step: int) -> Finding | None:
        """Let the episode go on, or end it."""
        episode, config = self._episode, self.config
        assert episode is not None
        length = self._by_grain(config.stuck, config.stuck_epochs)
        if self._curve.count % max(1, length // 12):
            return None
        now, error = self._now()
        flat = Flat(episode.onset_step, self._before, self._level)
        if self._stays(self.open_kind, flat, now, error):
            episode.hit(step, episode.score)
            return None
        moved = "falls again" if now < self._level else "has left its level"
        return self.end(step, f"the loss {moved}: {now:.4g}")

    def _now(self) -> tuple[float, float]:
        """The level of the latest losses, and four standard errors of it."""
        length = self._by_grain(self.config.stuck, self.config.stuck_epochs)
        latest = self._stuck.latest(max(3, length // 6))
        return median(latest), 4.0 * 1.2533 * noise(latest) / math.sqrt(len(latest))

    def _stays(self, kind: str, flat: Flat, now: float, error: float) -> bool:
        """Whether the latest losses are where the plateau is."""
        level, config = flat.level, self.config
        if kind == _STUCK:
            return now > 0.5 * (flat.before + level)
        if kind == _NOTHING:
            return now > level - 2.0 * config.min_progress * abs(level) - error
        slack = 2.0 * config.flat_progress * abs(level) + error
        return level - slack < now < level + 2.0 * slack
