"""What the loop is told not to exceed, by the bounds it was given."""

from __future__ import annotations

import math

from lossguard.agent.incidents import Incident
from lossguard.agent.limits import Limits
from lossguard.detectors import Severity
from tests.support.streams import finding


def vetoed(step: int, severity: Severity = Severity.WARNING, *, is_open: bool = False) -> Incident:
    """An incident of one step whose update was skipped."""
    incident = Incident(f"run-a.{step}", "run-a", 0.0)
    incident.add(finding(step, severity=severity, detected_step=step))
    incident.did("skip", step, "done", 0.0)
    incident.resolved_step = None if is_open else step
    return incident


def test_only_a_change_is_told_and_all_changes_are_kept() -> None:
    limits = Limits()
    told = [limits.set(step, {"loss": bound}, waits=False) for step, bound in enumerate([5, 5, 6])]
    assert told == [True, False, True]
    assert limits.lift(3)
    assert not limits.lift(4)
    assert limits.now == {}
    assert limits.past["loss"].series("loss").steps


def test_vetoes_that_were_nothing_widen_the_limits() -> None:
    """Four times for every three; those that are open, critical or long ago do not count."""
    limits = Limits()
    harmless = [vetoed(step) for step in range(1, 10)]
    seen = []
    for many in (2, 3, 6, 9):
        limits.widen(harmless[:many], 10)
        seen.append(limits.widening)
    assert seen == [1.0, 4.0, 16.0, 64.0]
    limits.widen([vetoed(step, is_open=True) for step in range(9)], 10)
    assert limits.widening == 1.0
    limits.widen([vetoed(step, Severity.CRITICAL) for step in range(9)], 10)
    assert limits.widening == 1.0
    limits.widen(harmless, 2000)
    assert limits.widening == 1.0


def test_what_divides_good_from_bad_is_a_limit_while_it_is_in_force() -> None:
    """The lower one counts, and the detectors' own come back after it."""
    limits = Limits()
    for step in range(40):
        limits.divide.note(step, 1.0 if step < 30 else 100.0)
    limits.divide.draw(30, 40, 10)
    limits.set(41, {"loss": 500.0}, waits=False)
    assert math.isclose(limits.now["loss"], 10.0)
    limits.set(60, {"loss": 500.0}, waits=False)
    assert limits.now == {"loss": 500.0}
