"""The numbers behind a finding: what its detector measured, and the metric around it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from lossguard.agent.feed import finite
from lossguard.detectors import Finding, Observation

_KEPT = 1024
"""Observations that are remembered: an onset further back is shown without its values."""
_BEFORE, _AFTER = 4, 4

Point = tuple[int, float]
"""(step, value)"""


@dataclass
class Explanation:
    """A finding with the values of its metric around its onset and its detection."""

    finding: Finding
    around_onset: list[Point] = field(default_factory=list)
    around_detection: list[Point] = field(default_factory=list)

    def as_object(self) -> dict[str, Any]:
        """For JSON: what is not finite is null there."""
        return {
            "where": self.finding.where,
            "numbers": {name: finite(value) for name, value in self.finding.evidence.items()},
            "around_onset": [[step, finite(value)] for step, value in self.around_onset],
            "around_detection": [[step, finite(value)] for step, value in self.around_detection],
        }


class Witness:
    """Remembers the last observations of a run, and completes explanations with the next few."""

    def __init__(self) -> None:
        self._seen: deque[Observation] = deque(maxlen=_KEPT)
        self._open: list[tuple[Explanation, int]] = []

    def see(self, observation: Observation) -> None:
        """One step, before the detectors have seen it."""
        self._seen.append(observation)
        still_open = []
        for explanation, wanted in self._open:
            value = _value_of(observation, explanation.finding)
            if value is not None:
                explanation.around_detection.append((observation.step, value))
                wanted -= 1
            if wanted > 0:
                still_open.append((explanation, wanted))
        self._open = still_open

    def explain(self, finding: Finding) -> Explanation:
        """Of a finding that was made at the step that was seen last."""
        points = [
            (observation.step, value)
            for observation in self._seen
            if (value := _value_of(observation, finding)) is not None
        ]
        onset = next((i for i, (s, _) in enumerate(points) if s >= finding.onset_step), None)
        around: list[Point] = []
        if onset is not None and (onset > 0 or points[0][0] == finding.onset_step):
            around = points[max(0, onset - _BEFORE) : onset + _AFTER]
        explanation = Explanation(finding, around, points[-_BEFORE - 1 :])
        self._open.append((explanation, _AFTER - 1))
        return explanation


def _value_of(observation: Observation, finding: Finding) -> float | None:
    """The metric of a finding at a step: a plain one, or that of the layer it is about."""
    metric, _, layer = finding.metric.partition("/")
    if not layer and finding.where and metric in observation.families:
        layer = finding.where
    if not layer:
        return observation.values.get(metric)
    family = observation.families.get(metric)
    if family is None or layer not in family.names:
        return None
    i = list(family.names).index(layer)
    return None if family.missing[i] else float(family.values[i])
