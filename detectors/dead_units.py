"""Layers whose units put out nothing but zeros, are saturated, or get no gradient any more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lossguard.detectors.base import Family, Finding, Observation, Severity, Symptom
from lossguard.detectors.layer_memory import FormerGradient, StartLevel
from lossguard.detectors.located import LocatedDetector
from lossguard.detectors.measured import measured
from lossguard.detectors.progress import LossProgress
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.suspects import Suspect, Suspects
from lossguard.detectors.thresholds import require_at_least, require_share

_FAMILIES = ("zero_share", "saturated_share", "grad_norm")
_MOST = 16
"""Layers of a kind that are followed, from the input side."""
_CALM_SAMPLES = 2
_CALM_STEPS = 8
"""Samples, or steps with gradients, without the sign that end an episode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadUnitsConfig:
    """Thresholds. Sources in the docstring of ``DeadUnits``."""

    zero_share: float = 0.98
    """Share of zeros in the output of an activation [0 < share <= 1]; ReLUs have 0.5 to 0.9."""
    all_zero: float = 0.999
    """Share at which the whole layer is dead [>= zero_share]; a ReLU in a large transformer may
    put out 0.98 zeros and be well."""
    saturated_share: float = 0.5
    """Share of saturated outputs of a sigmoid or tanh [0 < share <= 1]: SageMaker's."""
    above_start: float = 0.2
    """How far that is above the share the run began with [share, >= 0]."""
    samples: int = 4
    """Samples in a row of either [count, >= 2]; live, one is taken every 16 steps."""
    zero_gradient_steps: int = 100
    """Steps in a row in which a layer's gradient is exactly zero [observations, >= 8]."""

    def __post_init__(self) -> None:
        require_share(self, "zero_share", "saturated_share")
        require_at_least(self, samples=2, zero_gradient_steps=8, above_start=0)
        if not self.all_zero >= self.zero_share:
            raise ValueError(f"all_zero {self.all_zero} must be >= zero_share {self.zero_share}")


class DeadUnits(LocatedDetector):
    """Name the first layer that has died.

    Dead: ``samples`` samples in a row with a share of zeros of at least ``zero_share``. A warning
    from ``all_zero`` on or when the loss makes no progress (``LossProgress``), else an info: sparse
    ReLU layers are at 0.97 and more by nature (Li et al., "The Lazy Neuron Phenomenon", ICLR 2023).

    Saturated: as many samples at ``saturated_share`` and above (SageMaker Debugger, rule
    SaturatedActivation), and ``above_start`` over the first samples, or from the start on while the
    loss makes no progress. A warning when it makes none, else an info. The last module of the
    family is left out: it may be the output, which is right to be sure of itself.

    Without gradient: the norm of a weight exactly zero for ``zero_gradient_steps`` in a row, though
    it was not before and others are not. A warning; an info for experts, which may wait for tokens.
    Layers that never had a gradient are frozen.
    """

    symptom: ClassVar[Symptom] = Symptom.DEAD_UNITS
    inputs: ClassVar[tuple[str, ...]] = _FAMILIES

    def __init__(self, config: DeadUnitsConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or DeadUnitsConfig()
        least = {"zero_share": c.samples, "saturated_share": c.samples}
        self._suspects = {
            name: Suspects(least.get(name, c.zero_gradient_steps)) for name in _FAMILIES
        }
        self._start = StartLevel()
        self._former = FormerGradient()
        self._progress = LossProgress()
        self._names: dict[str, Sequence[str]] = {}
        self._has_layers = False

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """The loss, how many layers show the sign of each family, their indices and values."""
        counts: list[float | None] = []
        layers: list[float] = []
        for name in _FAMILIES:
            family = measured(observation, name)
            if family is None:
                counts.append(None)
                continue
            found = self._found(name, family)
            counts.append(float(len(found)))
            for index, value in found.items():
                layers += (float(index), value)
        self._has_layers |= len(counts) > counts.count(None)
        if not self._has_layers:
            return None
        loss = observation.get("loss")
        if loss is not None and not math.isfinite(loss):
            loss = None
        return (loss, *counts, *layers)

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one step."""
        loss, *rest = inputs
        self._progress.push(loss)
        said: Finding | None = None
        at = len(_FAMILIES)
        for name, count in zip(_FAMILIES, rest[:at], strict=False):
            suspects = self._suspects[name]
            if count is None:
                suspects.pass_by(step)
                continue
            end = at + 2 * int(count)
            pairs = zip(rest[at:end:2], rest[at + 1 : end : 2], strict=True)
            found = {int(i or 0): x or 0.0 for i, x in pairs} if count else {}
            at = end
            suspect = suspects.push(step, found)
            if said is None:
                said = self._verdict(step, name, suspect)
        return said

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        suspects = {name: known.state() for name, known in self._suspects.items()}
        return super().save() | {"suspects": suspects, "progress": self._progress.state()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        for name, known in saved["suspects"].items():
            self._suspects[name].restore(known)
        self._progress.restore(saved["progress"])

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return super().state() | {
            "start": self._start.state(),
            "former": self._former.state(),
            "has_layers": self._has_layers,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the detector that ``state`` came from."""
        super().restore(state)
        self._start.restore(state["start"])
        self._former.restore(state["former"])
        self._has_layers = state["has_layers"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        for suspects in self._suspects.values():
            suspects.clear()

    def _found(self, name: str, family: Family) -> dict[int, float]:
        """The layers that show the sign of their family, and how."""
        values = family.values
        if name == "grad_norm":
            found = {int(i): 0.0 for i in self._former.silent(family)[:_MOST]}
        elif name == "zero_share":
            found = _above(values, family.missing, self.config.zero_share)
        else:
            self._start.learn(family)
            found = _above(values[:-1], family.missing[:-1], self.config.saturated_share)
            found = {i: value - self._start.level(i) for i, value in found.items()}
        if found:
            self._names[name] = family.names
        return found

    def _verdict(self, step: int, name: str, suspect: Suspect | None) -> Finding | None:
        stalled, config = self._progress.stalled, self.config
        goes_on = self.open_kind == name
        if suspect is None or not (goes_on or self._counts(name, suspect)):
            needed = _CALM_STEPS if name == "grad_norm" else _CALM_SAMPLES
            words = f"the layer {self._where} recovered"
            return self.calm(step, needed, words) if goes_on else None
        names = self._names.get(name, ())
        where = names[suspect.index] if suspect.index < len(names) else ""
        where = self._where if goes_on else where
        if name == "zero_share":
            grave = stalled or suspect.value >= config.all_zero
            score = suspect.value / config.zero_share
            text = f"{100 * suspect.value:.3g} % of what the layer {where} puts out are zeros"
        elif name == "saturated_share":
            grave, score = stalled, 1.0 + max(0.0, suspect.value)
            text = (
                f"more than {100 * config.saturated_share:.3g} % of the layer {where} is saturated"
            )
        else:
            grave, score = "expert" not in where, 1.0
            text = f"{where} gets no gradient any more, although other layers do"
        severity = Severity.WARNING if grave else Severity.INFO
        return self.blame(
            where, step, severity, score, text, kind=name, onset=suspect.since, metric=name
        )

    def _counts(self, name: str, suspect: Suspect) -> bool:
        """Whether a saturated layer is worth a word: it was not at the start, or nothing moves."""
        rose = suspect.value >= self.config.above_start
        return name != "saturated_share" or rose or self._progress.stalled


def _above(
    values: npt.NDArray[np.float32], missing: npt.NDArray[np.bool_], least: float
) -> dict[int, float]:
    """The first layers whose share is at least that."""
    hits = np.flatnonzero((values >= least) & (values <= 1.0) & ~missing)
    return {int(i): float(values[i]) for i in hits[:_MOST]}
