"""EpisodicDetector: one episode at a time, each with the onset of its own cause."""

from __future__ import annotations

from typing import ClassVar

from lossguard.detectors import Finding, Observation, Severity, Symptom
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.rewinding import Inputs

SEVERITIES = (Severity.INFO, Severity.WARNING, Severity.CRITICAL)


class Told(EpisodicDetector):
    """Does as the metrics say: a severity 0 to 2, of the kind that stands in another metric."""

    symptom: ClassVar[Symptom] = Symptom.BAD_BATCH
    inputs: ClassVar[tuple[str, ...]] = ("severity", "kind")

    def inputs_of(self, observation: Observation) -> Inputs | None:
        return observation.get("severity"), observation.get("kind")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        severity, kind = inputs
        if severity is None:
            return self.calm(step, 2, "over")
        return self.hit(
            step, SEVERITIES[int(severity)], 1.0, "trouble", kind=str(kind), onset=step - 1
        )


def feed(told: list[tuple[int, int] | None]) -> list[tuple[str, int, int | None]]:
    """Severity, onset and end of what is said on severities and kinds."""
    detector = Told()
    said = []
    for step, told_now in enumerate(told):
        values = dict(zip(("severity", "kind"), map(float, told_now or ()), strict=False))
        finding = detector.update(Observation(step, values))
        if finding is not None:
            said.append((str(finding.severity), finding.onset_step, finding.end_step))
    return said


def test_an_episode_is_opened_escalated_and_ended_once() -> None:
    """What goes on is not repeated; two calm steps end it at its last hit."""
    told = [None, (1, 0), (1, 0), (0, 0), (2, 0), (2, 0), None, None, None]
    assert feed(told) == [("warning", 0, None), ("critical", 0, None), ("critical", 0, 5)]


def test_a_hit_between_calm_steps_keeps_it_open() -> None:
    """Calm must be in a row."""
    assert len(feed([(1, 0), None, (1, 0), None, (1, 0), None])) == 1


def test_a_lesser_kind_goes_unmentioned() -> None:
    """While something worse, or as bad, is open."""
    assert feed([(1, 0), (0, 1), (1, 1), (0, 1)]) == [("warning", -1, None)]


def test_a_worse_kind_ends_the_open_one_and_has_its_own_onset() -> None:
    """A line of one kind is over when another kind is critical."""
    assert feed([(0, 0), None, (0, 0), (2, 1), (2, 1)]) == [
        ("info", -1, None),
        ("info", -1, 2),
        ("critical", 3, None),
    ]
