"""Losses as of a small healthy training, and detectors that do as they are told."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, ClassVar

from lossguard.detectors import Detector, Finding, Observation, Severity, Symptom
from tests.support.probe import FakeProbe


def healthy_losses(count: int, seed: int = 1) -> list[float]:
    """A loss that falls and flickers."""
    noise = random.Random(seed)
    return [2.0 + 2.0 / (1 + 0.05 * i) + noise.gauss(0.0, 0.02) for i in range(count)]


def diverge(probe: FakeProbe) -> None:
    """Healthy for a while, then NaN for good."""
    for loss in healthy_losses(80):
        probe.send_step(loss)
    for _ in range(6):
        probe.send_step(math.nan)


def finding(
    onset: int,
    symptom: Symptom = Symptom.LOSS_SPIKE,
    severity: Severity = Severity.CRITICAL,
    **changes: Any,
) -> Finding:
    """A finding that is detected where it begins, unless told otherwise."""
    known: dict[str, Any] = {
        "metric": "loss",
        "detected_step": onset,
        "score": 2.0,
        "message": f"{symptom} at {onset}",
    }
    return Finding(symptom=symptom, severity=severity, onset_step=onset, **(known | changes))


class Scripted(Detector):
    """Finds at each step what it was given for it, raises what it was given to raise."""

    symptom: ClassVar[Symptom] = Symptom.LOSS_SPIKE
    inputs: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, script: Mapping[int, Finding | Exception] | None = None) -> None:
        self.script = dict(script or {})
        self.seen: list[int] = []
        self.rewound: list[int] = []
        self.bound: float | None = None

    def update(self, observation: Observation) -> Finding | None:
        """As scripted."""
        self.seen.append(observation.step)
        found = self.script.get(observation.step)
        if isinstance(found, Exception):
            raise found
        return found

    def bounds(self) -> Mapping[str, float]:
        """One for the loss, if it has one."""
        return {} if self.bound is None else {"loss": self.bound}

    def state(self) -> dict[str, Any]:
        """The steps it saw."""
        return {"seen": self.seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self.seen = list(state["seen"])

    def rewind(self, step: int) -> None:
        """Note it."""
        self.rewound.append(step)
