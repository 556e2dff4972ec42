"""Findings become incidents, one per cause."""

from __future__ import annotations

import msgspec
import pytest

from lossguard.agent.incidents import Incident, Incidents, KeptIncident
from lossguard.detectors import Severity, Symptom
from tests.support.streams import finding


@pytest.fixture
def incidents() -> Incidents:
    """Those of a run, at a clock that stands still."""
    return Incidents("run-a", lambda: 100.0)


def taken(incident: Incident | None) -> Incident:
    """It is one."""
    assert incident is not None
    return incident


def test_findings_of_one_step_are_one_incident_named_by_the_cause(incidents: Incidents) -> None:
    """A gradient that bursts and the loss that follows are one trouble; the gradient names it."""
    loss = taken(incidents.take(finding(10, severity=Severity.WARNING)))
    grad = taken(incidents.take(finding(10, Symptom.GRAD_SPIKE, Severity.WARNING)))
    assert loss is grad
    line = grad.line()
    assert (line.id, line.symptom, line.also) == ("run-a.1", "grad_spike", ["loss_spike"])


def test_an_open_incident_takes_in_whatever_comes(incidents: Incidents) -> None:
    """While there is trouble, a divergence dated back to before it is the same trouble."""
    spike = incidents.take(finding(100))
    assert incidents.take(finding(60, Symptom.DIVERGENCE, detected_step=110)) is spike
    assert incidents.take(finding(140, Symptom.NONFINITE)) is spike
    assert len(incidents.all) == 1


def test_a_finding_escalates_and_never_calms_down(incidents: Incidents) -> None:
    """A worse finding of the episode takes over; a milder one changes nothing."""
    incidents.take(finding(10, severity=Severity.WARNING))
    assert incidents.take(finding(10, severity=Severity.CRITICAL)) is not None
    assert incidents.take(finding(10, severity=Severity.WARNING)) is None
    assert incidents.all[0].line().severity == "critical"


def test_an_incident_ends_when_the_last_of_its_findings_does(incidents: Incidents) -> None:
    """One end of two is not the end, and the words stay those of the worst moment."""
    incidents.take(finding(10))
    incidents.take(finding(11, Symptom.GRAD_SPIKE))
    assert taken(incidents.take(finding(10, end_step=14, message="is back"))).is_open
    line = taken(incidents.take(finding(11, Symptom.GRAD_SPIKE, end_step=12))).line()
    assert (line.state, line.end_step, line.message) == ("resolved", 14, "grad_spike at 11")


@pytest.mark.parametrize(("onset", "count"), [(17, 1), (18, 2), (7, 1), (6, 2)])
def test_what_comes_near_in_steps_reopens_and_what_comes_later_is_another(
    incidents: Incidents, onset: int, count: int
) -> None:
    """Three steps after the end, or before the onset, are the same cause; four are not."""
    incidents.take(finding(10))
    incidents.take(finding(10, end_step=14))
    again = taken(incidents.take(finding(onset, Symptom.GRAD_SPIKE)))
    assert len(incidents.all) == count
    assert again.is_open


def test_the_same_episode_coming_back_reopens_its_incident(incidents: Incidents) -> None:
    """An incident with something going on is never called resolved."""
    incidents.take(finding(10))
    incidents.take(finding(10, end_step=14))
    assert taken(incidents.take(finding(10))).line().state == "open"


def test_the_end_of_what_was_never_opened_is_nothing(incidents: Incidents) -> None:
    """A detector that was restored may end an episode nobody remembers."""
    assert incidents.take(finding(10, end_step=12)) is None
    assert incidents.all == []


def test_after_a_rollback_twenty_quiet_steps_resolve(incidents: Incidents) -> None:
    """The end is the rollback; a finding meanwhile keeps the incident open."""
    incidents.take(finding(10))
    incidents.rolled_back(15)
    assert incidents.settle(34) == []
    assert [i.line().end_step for i in incidents.settle(35)] == [15]
    incidents.take(finding(50))
    incidents.rolled_back(55)
    relapse = taken(incidents.take(finding(60)))
    assert incidents.settle(100) == []
    assert [f.onset_step for f in relapse.findings.values() if f.end_step is None] == [60]


def test_a_moment_nobody_will_end_ends_by_quiet(incidents: Incidents) -> None:
    """What lasted one step does not stay open for ever, and does not take in what comes later."""
    moment = incidents.take_moment(finding(10))
    assert moment.is_open
    assert incidents.settle(30) == [moment]
    assert moment.line().end_step == 10
    assert incidents.take(finding(500)) is not moment


def test_a_moment_does_not_end_what_goes_on(incidents: Incidents) -> None:
    """A veto in the middle of a divergence is part of it."""
    divergence = incidents.take(finding(10, Symptom.DIVERGENCE))
    assert incidents.take_moment(finding(20)) is divergence
    assert incidents.settle(1000) == []


def test_restored_incidents_go_on_where_they_were(incidents: Incidents) -> None:
    """Findings, ends to come, actions and numbers survive the way through the database."""
    incidents.take(finding(5, severity=Severity.WARNING))
    incidents.take(finding(5, end_step=6))
    incidents.take(finding(100, where="layer.3", evidence={"hits": 2.0}))
    incidents.take(finding(98, Symptom.DIVERGENCE, detected_step=101))
    incidents.all[1].did("skip", 100, "done", 1.0)
    stored = [msgspec.msgpack.encode(i.kept()) for i in incidents.all]
    fresh = Incidents("run-a", lambda: 0.0)
    fresh.restore([msgspec.msgpack.decode(one, type=KeptIncident) for one in stored])
    assert [i.line() for i in fresh.all] == [i.line() for i in incidents.all]
    assert fresh.settle(10_000) == []
    fresh.take(finding(100, end_step=110))
    resolved = taken(fresh.take(finding(98, Symptom.DIVERGENCE, end_step=120)))
    assert resolved.line().end_step == 120
    assert taken(fresh.take(finding(500))).id == "run-a.3"


def test_an_incident_whose_detector_forgot_it_ends_by_quiet(incidents: Incidents) -> None:
    """Nobody will say the end of it."""
    incidents.take(finding(100))
    incidents.lose_sight(Symptom.LOSS_SPIKE, 105)
    assert [i.line().end_step for i in incidents.settle(125)] == [105]


def test_sealed_incidents_are_over_and_take_nothing_in(incidents: Incidents) -> None:
    """The same step of another process is another step."""
    incidents.take(finding(100))
    incidents.seal()
    assert incidents.open == []
    assert taken(incidents.take(finding(100))).id == "run-a.2"


def test_memory_is_bounded(incidents: Incidents) -> None:
    """Of thousands of incidents, findings and actions the newest, or the first, are kept."""
    for i in range(1000):
        incidents.take(finding(100 * i))
        incidents.take(finding(100 * i, end_step=100 * i + 1))
    assert len(incidents.all) == 500
    assert incidents.all[-1].id == "run-a.1000"
    endless = taken(incidents.take(finding(200_000, Symptom.DIVERGENCE)))
    for i in range(1000):
        incidents.take(finding(200_000 + 10 * i))
        incidents.take(finding(200_000 + 10 * i, end_step=200_001 + 10 * i))
        endless.did("skip", i, "done", 0.0)
    assert endless.line().symptom == "divergence"
    assert len(endless.findings) <= 64
    assert len(endless.actions) == 200


def test_a_cause_names_the_incident_and_the_harm_gives_its_severity() -> None:
    """A learning rate that jumped leads, though the divergence it made is more severe."""
    incidents = Incidents("run", lambda: 0.0)
    incidents.take(finding(100, Symptom.LR_JUMP, Severity.WARNING, metric="lr"))
    incident = taken(incidents.take(finding(101, Symptom.DIVERGENCE)))
    line = incident.line()
    assert (line.symptom, line.severity, line.onset_step) == ("lr_jump", "critical", 100)
    assert line.also == ["divergence"]


def test_what_is_slow_is_an_incident_of_its_own() -> None:
    """A spike during an overfitting that goes on for hours has nothing to do with it."""
    incidents = Incidents("run", lambda: 0.0)
    slow = taken(incidents.take(finding(100, Symptom.OVERFITTING, Severity.WARNING)))
    spike = taken(incidents.take(finding(101, Symptom.LOSS_SPIKE)))
    plateau = taken(incidents.take(finding(101, Symptom.PLATEAU, Severity.WARNING)))
    assert len({slow.id, spike.id, plateau.id}) == 3
    assert [i.is_acute for i in (slow, spike, plateau)] == [False, True, False]
