"""What the probe has found by looking closer belongs to the finding that it was about."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from lossguard.agent.intake import shortened
from lossguard.detectors import Finding, Symptom

_KEPT = 16
_LOCATED = (Symptom.NONFINITE, Symptom.BAD_BATCH)
"""A zoom is about the first; the second names the incident where it is to blame."""
_MOST_LETTERS = 200
_NUMBERS = ("input_absmax", "input_is_finite", "weights_are_finite")


class _Zoom(NamedTuple):
    step: int
    where: str
    words: str
    evidence: Mapping[str, float]


class Zooms:
    """The last 16 zooms of a run. A word of the probe's may come before the step it is about, or
    long after: whoever comes second finds the other here."""

    def __init__(self) -> None:
        self._zooms: deque[_Zoom] = deque(maxlen=_KEPT)

    def take(self, step: int, words: str, data: Mapping[str, float | int | str]) -> None:
        """What the probe said of a step."""
        numbers = {name: data.get(name) for name in _NUMBERS}
        evidence = {
            name: float(value)
            for name, value in numbers.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        where = data.get("where")
        where = where[:_MOST_LETTERS] if isinstance(where, str) else ""
        self._zooms.append(_Zoom(step, where, shortened(words), evidence))

    def located(self, finding: Finding) -> Finding:
        """The same with the module to blame, where a zoom has found one; else the very same."""
        if finding.symptom not in _LOCATED:
            return finding
        for zoom in self._zooms:
            if finding.onset_step <= zoom.step <= finding.detected_step:
                if zoom.words in finding.message:
                    return finding
                return replace(
                    finding,
                    where=zoom.where or finding.where,
                    message=f"{finding.message}; {zoom.words}",
                    evidence={**finding.evidence, **zoom.evidence},
                )
        return finding
