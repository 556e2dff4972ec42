"""Was it found, as what, and in time; and was the healthy twin left alone?"""

from __future__ import annotations

from dataclasses import dataclass

from lossguard.detectors import Finding, Severity
from tests.scenarios.harness import Record
from tests.scenarios.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judging side made of one training that went wrong."""

    delay: int | None
    """Steps from the cause to the first finding of the right symptom; None: never, or too early."""
    in_time: bool
    """Something was found in time, as whatever symptom."""
    as_right: bool
    """It was found in time, as the right symptom."""
    too_early: tuple[Finding, ...]
    """What was found before there was anything to find."""
    also: tuple[str, ...]
    """The other symptoms it was found as, in time."""


def judge(scenario: Scenario, record: Record) -> Verdict:
    """Warnings and criticals count; of its own symptom, what the scenario says is enough."""
    first, last = record.begins, record.begins + scenario.within
    said = told(scenario, record)
    early = tuple(f for f in said if f.detected_step < first)
    right = [f for f in said if f.symptom is scenario.symptom and f.detected_step >= first]
    timely = [f for f in said if first <= f.detected_step <= last]
    return Verdict(
        delay=min((f.detected_step for f in right), default=first - 1) - first if right else None,
        in_time=bool(timely),
        as_right=any(f.symptom is scenario.symptom for f in timely),
        too_early=early,
        also=tuple(sorted({str(f.symptom) for f in timely} - {str(scenario.symptom)})),
    )


def told(scenario: Scenario, record: Record) -> tuple[Finding, ...]:
    """What a person is told, and what the healthy twin must not be told."""
    return tuple(
        f
        for f in record.said(Severity.INFO)
        if f.severity is not Severity.INFO
        or (f.symptom is scenario.symptom and scenario.least is Severity.INFO)
    )
