"""The detectors of a run, kept from doing harm: one that raises is said once, the others go on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lossguard.agent.detector_settings import fresh
from lossguard.detectors import Detector, Finding, Observation, Symptom

log = logging.getLogger(__name__)


class ContainedDetectors:
    """``tell(kind, step, message)`` takes a line for the log of the run."""

    def __init__(
        self, run: str, detectors: Sequence[Detector], tell: Callable[[str, int, str], None]
    ) -> None:
        self._run = run
        self._detectors = list(detectors)
        self._tell = tell
        self._broken: set[str] = set()

    def ask(self, observation: Observation) -> list[Finding]:
        """What they find in one step."""
        findings = []
        for detector in self._detectors:
            try:
                finding = detector.update(observation)
            except Exception:
                self._say_broken(detector, observation.step)
                continue
            if finding is not None:
                findings.append(finding)
        return findings

    def bounds(self, step: int, widening: float) -> dict[str, float]:
        """The lowest bound on each metric. Each is so much wider, where it is not a hard one."""
        lowest: dict[str, float] = {}
        for detector in self._detectors:
            if type(detector).bounds is Detector.bounds:  # most of them, in every step
                continue
            try:
                hard = detector.hard_bounds()
                for metric, bound in detector.bounds().items():
                    wider = min(_wider(bound, widening), hard.get(metric, math.inf))
                    lowest[metric] = min(wider, lowest.get(metric, math.inf))
            except Exception:
                self._say_broken(detector, step)
        return lowest

    def rewind(self, step: int, back: int) -> None:
        """At ``step`` the run went back to ``back``."""
        for detector in self._detectors:
            try:
                detector.rewind(back)
            except Exception:
                self._say_broken(detector, step)

    def _say_broken(self, detector: Detector, step: int) -> None:
        """Of the exception that is being handled; once a detector."""
        if detector.symptom in self._broken:
            return
        self._broken.add(detector.symptom)
        log.exception("detector %s failed at step %d of %s; the others go on",
                      detector.symptom, step, self._run)  # fmt: skip
        self._tell("detector_failed", step, f"detector {detector.symptom} failed")

    @property
    def are_at_rest(self) -> bool:
        """Whether nothing is judged any more."""
        return not self._detectors

    def rest(self) -> None:
        """No more steps come: the detectors, which are most of what a run takes, go."""
        self._detectors = []

    def wake(self, detectors: Sequence[Detector]) -> None:
        """Steps come all the same, and are judged afresh."""
        self._detectors = list(detectors)

    def state(self, step: int) -> dict[str, Any]:
        """Everything they know, as plain data, by symptom."""
        states: dict[str, Any] = {}
        for detector in self._detectors:
            try:
                states[str(detector.symptom)] = detector.state()
            except Exception:
                self._say_broken(detector, step)
        return states

    def restore(self, states: Mapping[str, Any]) -> list[Symptom]:
        """Take up ``state()`` of before a restart. One whose state does not fit starts afresh: the
        symptoms of those."""
        if not states:
            self.rest()
        lost = []
        for i, detector in enumerate(self._detectors):
            try:
                detector.restore(states[str(detector.symptom)])
            except Exception:
                log.warning("the state of detector %s of %s does not fit; it starts afresh",
                            detector.symptom, self._run)  # fmt: skip
                self._detectors[i] = fresh(detector)
                lost.append(detector.symptom)
        return lost


def _wider(bound: float, factor: float) -> float:
    """The bound that much higher, whatever its sign."""
    return bound + (factor - 1.0) * abs(bound)
