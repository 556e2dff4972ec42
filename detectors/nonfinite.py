"""NaN and Inf in the loss, the gradient or an activation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lossguard.detectors.base import Detector, Family, Finding, Observation, Severity, Symptom
from lossguard.detectors.zeroed_loss import ZeroedLoss

_SKIPPED_BY_SCALER = 16
"""The wire's SKIP_SCALER."""
_METRICS = ("loss", "grad_norm", "val_loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class NonfiniteConfig:
    """When an episode is over, and when it is called persistent."""

    calm_steps: int = 3
    """Observations in a row, all finite, that end an episode [count, >= 1]. A skipped update
    leaves the next step finite at once; three tell a lone bad batch from an alternating one."""
    persistent_steps: int = 5
    """Non-finite observations in a row after which the finding is renewed as persistent
    [count, >= 2]. A bad batch lasts for one step: five mean that the weights are gone."""

    def __post_init__(self) -> None:
        if self.calm_steps < 1:
            raise ValueError(f"calm_steps must be >= 1, got {self.calm_steps}")
        if self.persistent_steps < 2:
            raise ValueError(f"persistent_steps must be >= 2, got {self.persistent_steps}")


class Nonfinite(Detector):
    """Report the first step whose loss, gradient or activation is NaN or Inf.

    No statistics: IEEE 754 arithmetic keeps a NaN or an Inf through the norms that the probes
    take. ``where`` is the first bad activation in the order of the forward pass; with all
    activations finite, the bad gradient that stands last in the order of the parameters, the
    one closest to the loss, where backward met it first. A non-finite gradient under a finite loss
    is nothing where a GradScaler is at work (a loss scale above 1, or its own skip): that is fp16's
    normal search for a scale, and the update is dropped (Micikevicius et al., ICLR 2018). A loss
    that was far from zero and is exactly 0.0 is one that a trainer wrote for a NaN
    (``ZeroedLoss``).

    One critical finding opens an episode, one renews it when it is persistent
    (``evidence["consecutive"]``), one ends it.
    """

    symptom: ClassVar[Symptom] = Symptom.NONFINITE
    inputs: ClassVar[tuple[str, ...]] = _METRICS

    def __init__(self, config: NonfiniteConfig | None = None) -> None:
        self.config = config or NonfiniteConfig()
        self._clear()

    def _clear(self) -> None:
        self._zeroed = ZeroedLoss()
        self._zero_steps: list[int] = []
        self._onset: int | None = None
        self._metric = ""
        self._where = ""
        self._last_bad = -1
        self._consecutive = 0
        self._calm = 0

    def update(self, observation: Observation) -> Finding | None:
        """Take in one step."""
        since = self._zero_since(observation)
        metric = _bad_metric(observation) or ("loss" if since is not None else None)
        if metric is None:
            return self._finite(observation)
        self._calm = 0
        self._consecutive += 1
        self._last_bad = observation.step
        if self._onset is None:
            self._onset = observation.step if since is None else since
            self._metric = metric
            self._where = _first_bad(observation)
            return self._finding(observation, self._message(observation))
        if self._consecutive == self.config.persistent_steps:
            return self._finding(
                observation,
                f"persistent: {self._metric} not finite since step {self._onset}; go back before "
                "it, and try bfloat16 or float32 where it was float16",
            )
        return None

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain data."""
        return {
            "zeroed": self._zeroed.state(),
            "zero_steps": list(self._zero_steps),
            "onset": self._onset,
            "metric": self._metric,
            "where": self._where,
            "last_bad": self._last_bad,
            "consecutive": self._consecutive,
            "calm": self._calm,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the detector that ``state`` came from."""
        self._zeroed.restore(state["zeroed"])
        self._zero_steps = list(state["zero_steps"])
        self._onset = state["onset"]
        self._metric = state["metric"]
        self._where = state["where"]
        self._last_bad = state["last_bad"]
        self._consecutive = state["consecutive"]
        self._calm = state["calm"]

    def rewind(self, step: int) -> None:
        """Forget the observations of steps after ``step``; an open episode is dropped."""
        self._clear()

    def _finite(self, observation: Observation) -> Finding | None:
        if self._onset is None or not _measures_anything(observation):
            return None
        self._calm += 1
        self._consecutive = 0
        if self._calm < self.config.calm_steps:
            return None
        finding = self._finding(
            observation,
            f"{self._metric} is finite again after step {self._last_bad}",
            end_step=self._last_bad,
        )
        zeroed = self._zeroed
        self._clear()
        self._zeroed = zeroed
        return finding

    def _zero_since(self, observation: Observation) -> int | None:
        """The step from which on the loss is 0.0 for a NaN; None where it is not."""
        loss = observation.get("loss")
        if loss is None:
            return None
        self._zero_steps = [*self._zero_steps[-2:], observation.step] if loss == 0.0 else []
        num_before = self._zeroed.push(loss, observation.get("grad_norm"))
        return self._zero_steps[0] if num_before >= 0 else None

    def _message(self, observation: Observation) -> str:
        value = observation.get(self._metric)
        if value == 0.0:
            return f"loss is exactly 0 since step {self._onset}: a NaN that was logged as 0"
        shown = "not finite" if value is None else str(value)
        place = f", first in {self._where}" if self._where else ""
        return f"{self._metric} is {shown} at step {observation.step}{place}"

    def _finding(
        self, observation: Observation, message: str, end_step: int | None = None
    ) -> Finding:
        assert self._onset is not None
        return Finding(
            symptom=self.symptom,
            severity=Severity.CRITICAL,
            metric=self._metric,
            onset_step=self._onset,
            detected_step=observation.step,
            score=float(max(self._consecutive, 1)),
            message=message,
            end_step=end_step,
            where=self._where,
            evidence={"consecutive": float(self._consecutive)},
        )


def _bad_metric(observation: Observation) -> str | None:
    """The metric or family that is not finite, or None."""
    loss = observation.get("loss")
    scaler = _scaler_at_work(observation)
    for metric in _METRICS:
        value = observation.get(metric)
        if value is None or math.isfinite(value):
            continue
        if metric == "grad_norm" and scaler and (loss is None or math.isfinite(loss)):
            continue
        return metric
    if _bad_names(observation.families.get("act_rms")):
        return "act_rms"
    if not scaler and _bad_names(observation.families.get("grad_norm")):
        return "grad_norm"
    return None


def _scaler_at_work(observation: Observation) -> bool:
    """Whether a GradScaler drops the update by itself when a gradient is not finite."""
    skipped = int(_finite_or_zero(observation.get("skipped")))
    scale = _finite_or_zero(observation.get("loss_scale"))
    return bool(skipped & _SKIPPED_BY_SCALER) or scale > 1.0


def _first_bad(observation: Observation) -> str:
    """The module or parameter to blame; empty where none is known."""
    activations = _bad_names(observation.families.get("act_rms"))
    if activations:
        return activations[0]
    gradients = _bad_names(observation.families.get("grad_norm"))
    return gradients[-1] if gradients else ""


def _bad_names(family: Family | None) -> list[str]:
    """The names of the measured values that are not finite, in the order of the family."""
    if family is None or np.isfinite(family.values.sum(dtype=np.float64)):
        return []
    bad = ~np.isfinite(family.values) & ~family.missing
    return [family.names[int(i)] for i in np.flatnonzero(bad)]


def _measures_anything(observation: Observation) -> bool:
    return any(metric in observation.values for metric in _METRICS) or bool(observation.families)


def _finite_or_zero(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0
