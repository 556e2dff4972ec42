"""What each policy orders about what."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from lossguard.agent.incidents import Incident, Incidents
from lossguard.agent.ladder import Rule, Rung
from lossguard.agent.policy import Judge, Order, find_policy
from lossguard.detectors import Finding, Severity, Symptom
from lossguard.errors import ConfigError
from tests.support.streams import finding


def incident_of(*findings: Finding, name: str = "run-a") -> Incident:
    """An incident with these findings."""
    incidents = Incidents(name, lambda: 0.0)
    for one in findings:
        incidents.take(one)
    return incidents.all[0]


def guard() -> Judge:
    """A judge that acts."""
    return Judge(find_policy("guard"))


def test_observe_never_orders_anything() -> None:
    """Whatever is found, a run that is only watched is not touched."""
    judge = Judge(find_policy("observe"))
    for symptom in Symptom:
        persistent = finding(10, symptom, evidence={"consecutive": 99.0})
        assert judge.decide(incident_of(persistent), 10) is None


@pytest.mark.parametrize("symptom", [Symptom.LOSS_SPIKE, Symptom.DIVERGENCE])
def test_guard_rolls_back_to_before_the_earliest_onset(symptom: Symptom) -> None:
    """The order names the onset of what is critical and goes on, and nothing milder."""
    mild = finding(5, Symptom.GRAD_SPIKE, Severity.WARNING)
    order = guard().decide(incident_of(mild, finding(8, symptom), finding(9, symptom)), 12)
    assert order == Order("rollback", "run-a.1", {"onset": 8, "hold_lr": 1})


def test_warnings_gradient_spikes_and_what_is_over_are_left_alone() -> None:
    """The veto in the step has dealt with them."""
    judge = guard()
    over = incident_of(finding(10), finding(11, Symptom.GRAD_SPIKE))
    over.findings = {k: f for k, f in over.findings.items() if f.symptom is Symptom.GRAD_SPIKE}
    assert judge.decide(over, 12) is None
    assert judge.decide(incident_of(finding(10, severity=Severity.WARNING)), 12) is None


@pytest.mark.parametrize(("consecutive", "orders"), [(1, False), (4, False), (5, True), (9, True)])
def test_nonfinite_steps_are_tolerated_four_times_in_a_row(consecutive: int, orders: bool) -> None:
    """Each is skipped; the fifth says that the weights are gone."""
    bad = finding(10, Symptom.NONFINITE, evidence={"consecutive": float(consecutive)})
    assert (guard().decide(incident_of(bad), 15) is not None) == orders


def test_one_cause_is_ordered_once_until_it_is_answered() -> None:
    """More findings, and even an earlier onset, do not make a second order while one is out."""
    judge, incident = guard(), incident_of(finding(10))
    assert judge.decide(incident, 10)
    incident.add(finding(7, Symptom.DIVERGENCE))
    assert judge.decide(incident, 11) is None


def test_trouble_long_after_a_rollback_is_ordered_again() -> None:
    """What comes after the rollback counts anew."""
    judge, incidents = guard(), Incidents("run-a", lambda: 0.0)
    incidents.take(finding(10))
    assert judge.decide(incidents.all[0], 10)
    judge.answered("rollback", "run-a.1", 12, done=True)
    incidents.rolled_back(12)
    assert judge.decide(incidents.all[0], 13) is None
    incidents.take(finding(600))
    assert judge.decide(incidents.all[-1], 600) == Order(
        "rollback", incidents.all[-1].id, {"onset": 600, "hold_lr": 1}
    )


def in_trouble(judge: Judge, step: int, name: str) -> Order | str | None:
    """What is ordered about a new incident; it is carried out."""
    incident = incident_of(finding(step), name=name)
    decision = judge.decide(incident, step)
    if isinstance(decision, Order):
        judge.answered(decision.action, incident.id, step, done=True)
    return decision


def test_trouble_that_comes_back_climbs_the_ladder() -> None:
    """Deeper and slower each time; then a person is asked for, once."""
    judge = Judge(replace(find_policy("guard"), max_rollbacks=9))
    rates = []
    for i, step in enumerate((100, 200, 300)):
        order = in_trouble(judge, step, f"run-{i}")
        assert isinstance(order, Order)
        rates.append((order.args.get("deeper", 0), order.args.get("lr", 1.0)))
    assert rates == [(0, 1.0), (1, 0.5), (2, 0.1)]
    words = in_trouble(judge, 400, "run-3")
    assert isinstance(words, str)
    assert "all 3 rungs" in words
    assert judge.stands_down
    assert in_trouble(judge, 450, "run-4") is None


def test_the_ladder_forgets() -> None:
    """Its healthy twin: trouble that is far from the last is new trouble."""
    judge = guard()
    for i, step in enumerate((100, 700, 1300, 1900, 2500)):
        order = in_trouble(judge, step, f"run-{i}")
        assert isinstance(order, Order)
        assert order.args == {"onset": step, "hold_lr": 1}


def test_a_rule_of_ones_own_comes_first() -> None:
    """For a symptom the shipped ladder does nothing about, or instead of it."""
    rule = Rule(
        frozenset({Symptom.OVERFITTING}), (Rung("stop", {"checkpoint": 1}),), Severity.WARNING
    )
    judge = Judge(replace(find_policy("guard"), rules=(rule,)))
    mild = incident_of(finding(10, Symptom.OVERFITTING, Severity.INFO))
    assert judge.decide(mild, 10) is None
    bad = incident_of(finding(10, Symptom.OVERFITTING, Severity.WARNING))
    assert judge.decide(bad, 10) == Order("stop", bad.id, {"checkpoint": 1})
    assert isinstance(judge.decide(incident_of(finding(20), name="b"), 20), Order)


def test_a_general_rule_has_no_word_in_what_is_not_finite() -> None:
    """Unless it names the symptom, and then with the same tolerance."""
    for symptoms, orders in (({Symptom.LR_JUMP}, "rollback"), ({Symptom.NONFINITE}, "stop")):
        rule = Rule(frozenset(symptoms), (Rung("stop"),))
        judge = Judge(replace(find_policy("guard"), rules=(rule,)))
        few = finding(10, Symptom.NONFINITE, evidence={"consecutive": 2.0})
        assert judge.decide(incident_of(few), 10) is None
        many = finding(10, Symptom.NONFINITE, evidence={"consecutive": 6.0})
        order = judge.decide(incident_of(many), 10)
        assert isinstance(order, Order)
        assert order.action == orders


def test_trouble_right_after_a_rollback_is_not_cured_by_another() -> None:
    """The data has changed, or the script: skip while it lasts, and then leave the run alone."""
    judge, incidents = guard(), Incidents("run-a", lambda: 0.0)
    incidents.take(finding(10))
    assert judge.decide(incidents.all[0], 10)
    judge.answered("rollback", "run-a.1", 12, done=True)
    incidents.rolled_back(12)
    incidents.take(finding(15))
    word = judge.decide(incidents.all[0], 15)
    assert isinstance(word, str)
    assert "it is back 3 steps after a rollback" in word
    stood_down = [judge.stands_down]
    assert all(judge.wait(step, acute=True) is None for step in range(15, 79))
    word = judge.wait(79, acute=True)
    assert word is not None
    assert "it goes on 64 steps later" in word
    assert "a person is needed" in word
    assert [*stood_down, judge.stands_down] == [False, True]
    assert judge.wait(80, acute=True) is None, "once"
    incidents.take(finding(81, Symptom.DIVERGENCE))
    assert judge.decide(incidents.all[0], 81) is None


def test_bad_data_that_passes_by_is_waited_for() -> None:
    """The healthy twin: it is over before the patience is, and nothing is lifted."""
    judge, incident = guard(), incident_of(finding(10))
    assert judge.decide(incident, 10)
    judge.answered("rollback", incident.id, 12, done=True)
    again = incident_of(finding(13), name="run-b")
    assert isinstance(judge.decide(again, 14), str)
    assert judge.wait(30, acute=True) is None
    assert judge.wait(31, acute=False) is None
    assert all(judge.wait(step, acute=True) is None for step in range(32, 200))
    assert not judge.stands_down


def test_an_old_finding_that_is_still_open_is_not_gone_back_to_again() -> None:
    """New trouble in the same incident rolls back to before itself, not before the old one."""
    judge, incident = guard(), incident_of(finding(10, Symptom.DIVERGENCE))
    assert judge.decide(incident, 10)
    judge.answered("rollback", incident.id, 12, done=True)
    incident.add(finding(600))
    assert judge.decide(incident, 600) == Order(
        "rollback", incident.id, {"onset": 600, "hold_lr": 1}
    )


def test_a_failed_rollback_is_tried_again_for_another_onset_only() -> None:
    """There was no state to go back to; asking the same again would not make one."""
    judge, incident = guard(), incident_of(finding(10))
    assert judge.decide(incident, 10)
    judge.answered("rollback", incident.id, 11, done=False)
    assert judge.decide(incident, 11) is None
    incident.add(finding(5, Symptom.DIVERGENCE))
    assert judge.decide(incident, 12)


def test_the_circuit_breaker_trips_after_three_rollbacks_and_says_so_once() -> None:
    """A run that cannot be cured is left to a person; far enough on, it is tried again."""
    judge = Judge(replace(find_policy("guard"), ladder=(Rung("rollback"),) * 9))
    for i, step in enumerate((100, 200, 300)):
        incident = incident_of(finding(step), name=f"run-{i}")
        assert isinstance(judge.decide(incident, step), Order)
        judge.answered("rollback", incident.id, step, done=True)
    fourth = incident_of(finding(400), name="run-4")
    words = judge.decide(fourth, 400)
    assert isinstance(words, str)
    assert "circuit breaker: 3 rollbacks within 500 steps" in words
    assert judge.decide(fourth, 401) is None
    assert isinstance(judge.decide(fourth, 601), Order)


def test_a_judge_remembers_through_a_restart() -> None:
    """Neither what it ordered nor how often is forgotten with the agent."""
    judge, incident = guard(), incident_of(finding(10))
    judge.decide(incident, 10)
    for i in range(2):
        judge.decide(incident_of(finding(10), name=f"run-{i}"), 10)
    fresh = guard()
    fresh.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(judge.state())))
    assert fresh.decide(incident, 11) is None
    assert isinstance(fresh.decide(incident_of(finding(10), name="run-9"), 11), str)


def test_a_withdrawn_order_was_never_given() -> None:
    """It neither counts nor stands in the way."""
    judge, incident = guard(), incident_of(finding(10))
    for _ in range(10):
        order = judge.decide(incident, 10)
        assert isinstance(order, Order)
        judge.withdraw(order)


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    """The message says what to write."""
    with pytest.raises(ConfigError, match=r"policy must be one of observe, guard, .*got 'yolo'"):
        find_policy("yolo")
