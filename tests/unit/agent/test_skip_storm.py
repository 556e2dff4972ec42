"""Too many skipped updates are an incident of their own, which escalates."""

from __future__ import annotations

from typing import Any

import pytest

from lossguard.agent.policy_file import parse_policy
from lossguard.agent.run import Run
from lossguard.agent.skip_storm import SkipStorm
from lossguard.detectors import Finding, Observation, Severity, Symptom
from lossguard.probes import wire

BOUNDS = wire.SKIP_LOSS


def storm() -> SkipStorm:
    return SkipStorm(in_row=8, in_window=16, window_steps=100)


def found(watch: SkipStorm, codes: list[int], first: int = 1) -> list[Finding]:
    """What is said about steps that were skipped for these reasons."""
    said = (watch.take(step, code) for step, code in enumerate(codes, start=first))
    return [finding for finding in said if finding is not None]


def test_too_many_in_a_row_are_a_storm_that_begins_with_the_first_of_them() -> None:
    (finding,) = found(storm(), [0] * 4 + [BOUNDS] * 8)
    assert (finding.symptom, finding.severity) == (Symptom.DIVERGENCE, Severity.CRITICAL)
    assert (finding.onset_step, finding.detected_step) == (5, 12)
    assert finding.message.startswith("skip storm: 8 updates skipped within 8 steps")


def test_one_less_in_a_row_is_none() -> None:
    """The healthy twin: a row of bad batches that passes by."""
    assert not found(storm(), ([BOUNDS] * 7 + [0] * 100) * 20)


def test_every_second_step_is_a_storm_though_never_two_in_a_row() -> None:
    (finding,) = found(storm(), [BOUNDS, 0] * 16)
    assert (finding.onset_step, finding.detected_step) == (1, 31)


def test_as_many_over_a_longer_time_are_none() -> None:
    assert not found(storm(), [BOUNDS, 0, 0, 0, 0, 0, 0, 0] * 100)


def test_what_is_mostly_not_finite_is_called_so() -> None:
    (finding,) = found(storm(), [wire.SKIP_NONFINITE, 0] * 16)
    assert finding.symptom is Symptom.NONFINITE


@pytest.mark.parametrize("code", [wire.SKIP_SCALER, wire.SKIP_COMMAND])
def test_what_the_scaler_drops_or_a_person_orders_does_not_count(code: int) -> None:
    assert not found(storm(), [code] * 200)


def test_it_is_said_again_while_it_lasts_and_once_when_it_is_over() -> None:
    lasting = found(storm(), [BOUNDS] * 24 + [0] * 40)
    assert [finding.detected_step for finding in lasting] == [8, 16, 24, 56]
    assert [finding.end_step for finding in lasting] == [None, None, None, 24]
    assert {finding.onset_step for finding in lasting} == {1}


def test_a_restart_of_the_agent_forgets_nothing() -> None:
    before, after = storm(), storm()
    assert not found(before, [BOUNDS] * 7)
    after.restore(before.state())
    assert found(after, [BOUNDS], first=8)
    assert not found(storm(), [BOUNDS], first=8)


def a_run() -> Run:
    text = 'base = "guard"\nmax_skips_in_row = 8\nmax_skips = 16\nwindow_steps = 100\n'
    return Run("run-a", parse_policy(text, "my.toml"), [], lambda: 0.0)


def orders(run: Run, first: int, codes: list[int]) -> list[tuple[int, Any, Any]]:
    """What was ordered at which step."""
    found = []
    for step, code in enumerate(codes, start=first):
        outcome = run.observe(Observation(step, {"loss": 1.0, "skipped": float(code)}))
        found += [(step, order.action, dict(order.args)) for order in outcome.orders]
    return found


def test_a_storm_goes_back_to_before_its_first_skip_and_deeper_when_it_is_back() -> None:
    """Nothing but skips is seen here: no detector calls the run diverged."""
    run = a_run()
    (first,) = orders(run, 1, [0] * 20 + [BOUNDS] * 8)
    assert first[:2] == (28, "rollback")
    assert first[2]["onset"] == 21
    (incident,) = run.incidents.open
    assert (incident.lead.metric, incident.lead.symptom) == ("skipped", Symptom.DIVERGENCE)
    run.answered("rollback", incident.id, True, 28, {"restored_step": 19})
    (second,) = orders(run, 29, [0] * 20 + [BOUNDS] * 8)
    assert second[:2] == (56, "rollback")
    assert second[2]["deeper"] == 1


def test_a_few_skips_order_nothing() -> None:
    assert not orders(a_run(), 1, ([0] * 50 + [BOUNDS] * 5) * 10)


def test_a_storm_that_is_over_resolves_its_incident() -> None:
    run = a_run()
    orders(run, 1, [BOUNDS] * 8 + [0] * 80)
    assert run.incidents.all
    assert not run.incidents.open
