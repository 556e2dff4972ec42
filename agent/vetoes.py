"""What the ``skipped`` value of a step says: whether an update was dropped, and why."""

from __future__ import annotations

import math

from lossguard.detectors import Finding, Observation, Severity, Symptom
from lossguard.probes import wire

_VETOES = {
    wire.SKIP_NONFINITE: (Symptom.NONFINITE, "loss or gradient is not finite"),
    wire.SKIP_GRAD_NORM: (Symptom.GRAD_SPIKE, "the gradient norm is over its bound"),
    wire.SKIP_LOSS: (Symptom.LOSS_SPIKE, "the loss is over its bound"),
}


def in_words(code: int) -> str:
    """Why, for the log and the incident."""
    why = [words for bit, (_, words) in _VETOES.items() if code & bit]
    if code & wire.SKIP_COMMAND:
        why.append("ordered by hand")
    return "; ".join(why)


def code_of(observation: Observation) -> int:
    """The sum of the wire's SKIP_ numbers; 0 where the update took effect."""
    value = observation.values.get("skipped", 0.0)
    return int(value) if math.isfinite(value) else 0


def finding_of(code: int, observation: Observation) -> Finding | None:
    """Of a veto that no detector has flagged; None where the bounds had no part in it."""
    for bit, (symptom, words) in _VETOES.items():
        if code & bit:
            metric = "loss" if bit == wire.SKIP_LOSS else "grad_norm"
            return Finding(
                symptom=symptom,
                severity=Severity.WARNING,
                metric=metric,
                onset_step=observation.step,
                detected_step=observation.step,
                score=1.0,
                message=f"update vetoed: {words} ({observation.values.get(metric, 0.0):.4g})",
                evidence={"value": observation.values.get(metric, 0.0)},
            )
    return None
