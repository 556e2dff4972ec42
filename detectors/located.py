"""An episode that has a layer to blame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lossguard.detectors.base import Finding, Severity
from lossguard.detectors.episodic import EpisodicDetector


class LocatedDetector(EpisodicDetector):
    """An ``EpisodicDetector`` whose findings name the layer that its episode began with."""

    def __init__(self) -> None:
        super().__init__()
        self._where = ""

    def blame(
        self,
        where: str,
        step: int,
        severity: Severity,
        score: float,
        message: str,
        *,
        kind: str = "",
        onset: int | None = None,
        metric: str | None = None,
        evidence: Mapping[str, float] | None = None,
    ) -> Finding | None:
        """``hit``, for the layer ``where``."""
        if self._episode is None:
            self._where = where
        return self.hit(
            step,
            severity,
            score,
            message,
            kind=kind,
            onset=onset,
            metric=metric,
            evidence=evidence,
        )

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {"where": self._where}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._where = saved["where"]

    def _finding(
        self, step: int, message: str, evidence: Mapping[str, float] | None, end: int | None = None
    ) -> Finding:
        return replace(super()._finding(step, message, evidence, end), where=self._where)
