"""An optimizer that hardly moves since a giant gradient went into its second moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lossguard.detectors.base import Family, Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.measured import measured
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.streaming import SortedWindow

_NORMS = 64
_LEAST_NORMS = 16
_USUAL = 10.0
"""Multiple of the median up to which a norm is a usual one."""
_ALIVE = 4.0
"""The gradient has not vanished while it is above the usual over this."""
_CALM = 5.0
"""Multiple of the median up to which gradients are back to normal."""
_RATIOS = 16
_LEAST_RATIOS = 4
_LEAST_AGE = 2
"""Samples after a giant that has done nothing so far, from which the next one is to blame."""
_RECOVERED = 0.5
"""Share of the former ratio at which the optimizer moves again."""
_CALM_SAMPLES = 2
_SETTLE = 512
"""Samples after which the ratio is what it is."""
_QUARTILE = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerStateConfig:
    """Thresholds. Sources in the docstring of ``OptimizerState``."""

    giant: float = 20.0
    """Multiple of the median gradient norm that makes a giant [> 10]."""
    collapse: float = 0.2
    """Update over weight and learning rate, as a share of its former level, at which the optimizer
    hardly moves [0 < share < 0.5]."""
    samples: int = 3
    """Samples in a row below that [count, >= 2]; live, one is taken every 16 steps."""
    within: int = 24
    """Samples after a giant in which that must be seen [count, >= samples]: for the first of them
    the giant's momentum still moves the weights."""

    def __post_init__(self) -> None:
        if not self.giant > _USUAL:
            raise ValueError(f"giant must be > {_USUAL:g}, got {self.giant}")
        if not 0.0 < self.collapse < _RECOVERED:
            raise ValueError(f"collapse must be in (0, {_RECOVERED}), got {self.collapse}")
        if not 2 <= self.samples <= self.within:
            raise ValueError(
                f"2 <= samples <= within must hold, got {self.samples} and {self.within}"
            )


class OptimizerState(EpisodicDetector):
    """Report a second moment that a giant gradient has poisoned.

    Adam divides by sqrt(v), and v, an average over 1 / (1 - beta2) steps, takes a gradient of G
    times the usual for (1 - beta2) G^2 of the usual v: with beta2 = 0.999 and G = 1000 updates
    are 30 times too small at first and too small for thousands of steps. The sign, after a norm of
    at least ``giant`` times the median of the last 64 in a step that was applied, is

        r = lower quartile over parameters of (update norm / weight norm) / learning rate

    below ``collapse`` of its median before, ``samples`` samples in a row, while the gradient is
    back to normal; small updates of a small gradient are no sign. Over when it is above half of
    that. The quartile, for a poisoned parameter whose gradients are sparse goes on moving its
    other elements. Source: the second moment's
    lag in Molybog et al., "A Theory on Adam Instability in Large-Scale Machine Learning", 2023,
    seen from its other side; the thresholds are ours.
    """

    symptom: ClassVar[Symptom] = Symptom.OPTIMIZER_STATE
    inputs: ClassVar[tuple[str, ...]] = ("update_ratio",)

    def __init__(self, config: OptimizerStateConfig | None = None) -> None:
        self.config = config or OptimizerStateConfig()
        super().__init__()
        self._norms = SortedWindow(_NORMS)
        self._ratios = SortedWindow(_RATIOS)
        self._lr: float | None = None
        self._giant: tuple[int, float] | None = None
        self._age = 0
        self._low = 0
        self._names: Sequence[str] = ()
        self._weights: npt.NDArray[np.intp] = np.zeros(0, np.intp)

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Gradient norm, skip mask, learning rate and the quartile of the update ratios."""
        norm, lr = observation.get("grad_norm"), observation.get("lr")
        if norm is not None and not (math.isfinite(norm) and norm > 0.0):
            norm = None
        if lr is not None and not (math.isfinite(lr) and lr > 0.0):
            lr = None
        family = measured(observation, "update_ratio")
        ratio = None if family is None else self._quartile(family)
        if norm is None and ratio is None:
            return None
        skipped = observation.get("skipped")
        return norm, float(bool(skipped)), lr, ratio

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one step."""
        norm, skipped, lr, ratio = inputs
        if lr is not None:
            self._lr = lr
        if norm is not None:
            self._push_norm(step, norm, bool(skipped))
        if ratio is None:
            return None
        height = math.log(ratio) - (math.log(self._lr) if self._lr else 0.0)
        if self._giant is None:
            self._ratios.push(height)
            return None
        return self._after_giant(step, height, norm)

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "norms": self._norms.values(),
            "ratios": self._ratios.values(),
            "lr": self._lr,
            "giant": None if self._giant is None else list(self._giant),
            "age": self._age,
            "low": self._low,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._norms = SortedWindow(_NORMS, saved["norms"])
        self._ratios = SortedWindow(_RATIOS, saved["ratios"])
        self._lr = saved["lr"]
        giant = saved["giant"]
        self._giant = None if giant is None else (giant[0], giant[1])
        self._age = saved["age"]
        self._low = saved["low"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._giant = None
        self._age = 0
        self._low = 0

    def _push_norm(self, step: int, norm: float, skipped: bool) -> None:
        norms = self._norms
        if len(norms) < _LEAST_NORMS:
            norms.push(norm)
            return
        usual = norms.median()
        if norm <= _USUAL * usual:
            norms.push(norm)
        elif norm >= self.config.giant * usual and not skipped:
            harmless = self._age >= _LEAST_AGE and not self._low and self._episode is None
            if len(self._ratios) >= _LEAST_RATIOS and (self._giant is None or harmless):
                self._giant = (step, norm / usual)
            self._age = 0
            self._low = 0

    def _after_giant(self, step: int, height: float, norm: float | None) -> Finding | None:
        assert self._giant is not None
        config = self.config
        giant_step, times = self._giant
        self._age += 1
        fallen = height - self._ratios.median()
        usual = self._norms.median()
        quiet = norm is None or usual / _ALIVE <= norm <= _CALM * usual
        self._low = self._low + 1 if quiet and fallen < math.log(config.collapse) else 0
        if self._low >= config.samples:
            share = max(math.exp(min(fallen, 0.0)), 1e-9)
            return self.hit(
                step,
                Severity.WARNING,
                config.collapse / share,
                f"since the gradient of {times:.3g} times the usual norm at step {giant_step} an"
                f" update is {100 * share:.2g} % of its former size: roll back with the"
                f" optimizer's state, or reset its moments",
                onset=giant_step,
                evidence={"share": share, "times": times},
            )
        if self._episode is not None:
            return self._recovering(step, height, fallen)
        if self._age >= config.within:
            self._forget()
        return None

    def _recovering(self, step: int, height: float, fallen: float) -> Finding | None:
        said = None
        if self._age >= _SETTLE:
            said = self.end(step, "updates have settled at their new size")
        elif fallen > math.log(_RECOVERED):
            said = self.calm(step, _CALM_SAMPLES, "updates are back at their former size")
        if said is not None:
            self._forget()
            self._ratios.push(height)
        return said

    def _forget(self) -> None:
        """Let the giant be past."""
        self._giant = None
        self._age = 0
        self._low = 0

    def _quartile(self, family: Family) -> float | None:
        if family.names is not self._names:
            weights = [i for i, name in enumerate(family.names) if "bias" not in name]
            self._weights = np.array(weights, np.intp)
            self._names = family.names
        values = family.values[self._weights]
        usable = values[(values > 0.0) & np.isfinite(values) & ~family.missing[self._weights]]
        if not len(usable):
            return None
        usable.sort()
        return float(usable[int(_QUARTILE * len(usable))])
