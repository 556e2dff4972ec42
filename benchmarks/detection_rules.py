"""The rules that are scored: Lossguard's detectors at three levels of severity, and the rivals."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.detection_logs import Log
from benchmarks.detection_scoring import Alarm
from benchmarks.rivals import PROGRESS, RIVALS, UPSET, VALIDATION, Rival
from lossguard.detectors import Detector, Finding, Observation, Severity, Symptom, default_detectors

LEVELS = {
    "Lossguard, critical": Severity.CRITICAL,
    "Lossguard, warning": Severity.WARNING,
    "Lossguard, any": Severity.INFO,
}
"""What Lossguard's findings are counted as, with the least severity that counts in each."""

_SORTS = {
    Symptom.OSCILLATION: PROGRESS,
    Symptom.PLATEAU: PROGRESS,
    Symptom.SLOW_CONVERGENCE: PROGRESS,
    Symptom.OVERFITTING: VALIDATION,
    Symptom.EVAL_MODE_MISMATCH: VALIDATION,
}
"""The sort of alarm that each symptom is; all others say that something broke."""


class Watcher(ABC):
    """One rule at work on one run; it can be copied mid-run with ``deepcopy``."""

    @abstractmethod
    def watch(self, row: int, observation: Observation, row_of: Mapping[int, int]) -> None:
        """Take in a row. ``row_of`` gives the row of a step."""

    @abstractmethod
    def alarms(self) -> dict[str, list[Alarm]]:
        """By name of the rule, what it has said so far, in the order of rows."""


class LossguardWatcher(Watcher):
    """The default detectors. What ends an episode is no alarm; what escalates it is."""

    def __init__(self, detectors: list[Detector] | None = None) -> None:
        self._detectors = default_detectors() if detectors is None else detectors
        self._said: list[tuple[Severity, Alarm]] = []

    def watch(self, row: int, observation: Observation, row_of: Mapping[int, int]) -> None:
        for detector in self._detectors:
            finding = detector.update(observation)
            if finding is not None and finding.end_step is None:
                self._said.append((finding.severity, _alarm(row, finding, row_of)))

    def alarms(self) -> dict[str, list[Alarm]]:
        return {
            name: [alarm for severity, alarm in self._said if severity.rank >= least.rank]
            for name, least in LEVELS.items()
        }


def _alarm(row: int, finding: Finding, row_of: Mapping[int, int]) -> Alarm:
    return Alarm(
        row=row,
        step=finding.detected_step,
        sort=_SORTS.get(finding.symptom, UPSET),
        onset=min(row, row_of.get(finding.onset_step, row)),
        name=f"{finding.symptom} {finding.severity}",
    )


class RivalWatcher(Watcher):
    """A rival; it dates the trouble to the row of its alarm."""

    def __init__(self, name: str, rival: Rival) -> None:
        self._name = name
        self._rival = rival
        self._said: list[Alarm] = []

    def watch(self, row: int, observation: Observation, row_of: Mapping[int, int]) -> None:
        sort = self._rival.update(observation)
        if sort is not None:
            self._said.append(Alarm(row, observation.step, sort, onset=row, name=self._name))

    def alarms(self) -> dict[str, list[Alarm]]:
        return {self._name: self._said}


def watchers(rivals: bool = True) -> list[Watcher]:
    """A fresh one for every rule, or for Lossguard alone."""
    others = RIVALS if rivals else {}
    return [LossguardWatcher(), *(RivalWatcher(name, make()) for name, make in others.items())]


def copies(of: list[Watcher]) -> list[Watcher]:
    """Watchers that have seen what these have, and go their own way from here."""
    return copy.deepcopy(of)


@dataclass(frozen=True, slots=True)
class Replay:
    """What one rule said about a log, and the time it took [s]."""

    alarms: list[Alarm]
    seconds: float


def replay(log: Log, rivals: bool = True) -> dict[str, Replay]:
    """Every rule on a log from its first row to its last."""
    replays = {}
    row_of = log.row_of
    for watcher in watchers(rivals):
        begun = time.perf_counter()
        for row, observation in enumerate(log.observations):
            watcher.watch(row, observation, row_of)
        seconds = time.perf_counter() - begun
        for name, alarms in watcher.alarms().items():
            replays[name] = Replay(alarms, seconds)
    return replays
