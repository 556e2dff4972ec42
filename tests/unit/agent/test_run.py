"""The path of every observation, with detectors that find what they are told to."""

from __future__ import annotations

import logging
import math
from typing import Any, ClassVar

import msgspec
import pytest

from lossguard.agent.outcome import Outcome
from lossguard.agent.policy import find_policy
from lossguard.agent.run import Run
from lossguard.detectors import (
    Detector,
    Finding,
    LossSpike,
    Observation,
    Severity,
    Symptom,
    default_detectors,
)
from lossguard.probes import wire
from tests.support.streams import Scripted, finding, healthy_losses


class Other(Scripted):
    """Another detector, for another symptom."""

    symptom: ClassVar[Symptom] = Symptom.GRAD_SPIKE


def run_of(*detectors: Detector, policy: str = "guard") -> Run:
    """A run at a clock that stands still."""
    return Run("run-a", find_policy(policy), detectors, lambda: 100.0)


def observe(run: Run, step: int, **values: float) -> Outcome:
    """One step."""
    return run.observe(Observation(step, values or {"loss": 1.0}, applied=step))


def kinds(run: Run) -> list[str]:
    """What stands in its log."""
    return [event.kind for event in run.events]


def test_a_finding_becomes_an_incident_and_an_order() -> None:
    """Found, opened, decided, all at its step."""
    run = run_of(Scripted({3: finding(3)}))
    assert [bool(observe(run, step).orders) for step in (1, 2, 3)] == [False, False, True]
    assert run.incidents.open[0].onset_step == 3


def test_a_veto_is_an_action_of_the_incident_it_belongs_to() -> None:
    """The skip stands where the trouble stands, with its reason."""
    run = run_of(Scripted({3: finding(3)}))
    outcome = observe(run, 3, loss=9.0, skipped=wire.SKIP_LOSS | wire.SKIP_GRAD_NORM)
    actions = [(a.action, a.step, a.result) for a in outcome.incidents[0].actions]
    reason = "the gradient norm is over its bound; the loss is over its bound"
    assert actions == [("skip", 3, f"done: {reason}")]
    assert run.actions == 1


def test_a_veto_nobody_else_flagged_opens_an_incident_that_quiet_ends() -> None:
    """What was done to the run is on record, and the record is closed."""
    run = run_of(Scripted())
    outcome = observe(run, 3, loss=1.0, grad_norm=80.0, skipped=wire.SKIP_GRAD_NORM)
    line = outcome.incidents[0].line()
    assert (line.symptom, line.severity, line.metric) == ("grad_spike", "warning", "grad_norm")
    assert "80" in line.message
    for step in range(4, 24):
        outcome = observe(run, step)
    assert [i.line().state for i in outcome.incidents] == ["resolved"]


@pytest.mark.parametrize("skipped", [0.0, wire.SKIP_SCALER, math.nan, math.inf, -1.0])
def test_what_is_no_veto_of_ours_is_no_action(skipped: float) -> None:
    """An overflow under GradScaler is its own business, and nonsense is nothing."""
    run = run_of(Scripted())
    assert observe(run, 3, loss=1.0, skipped=skipped).incidents == []
    assert run.actions == 0


def test_a_raising_detector_is_contained_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """The others go on, and the log is not flooded."""
    broken = Scripted({step: RuntimeError("boom") for step in range(100)})
    run = run_of(broken, Other({50: finding(50, Symptom.GRAD_SPIKE)}))
    with caplog.at_level(logging.ERROR):
        found = [bool(observe(run, step).findings) for step in range(100)]
    assert found.index(True) == 50
    assert len(caplog.records) == 1
    assert kinds(run) == ["detector_failed"]


class Hopeless(Scripted):
    """Fails at everything."""

    def bounds(self) -> dict[str, float]:
        """Fails."""
        raise ZeroDivisionError

    def state(self) -> dict[str, Any]:
        """Fails."""
        raise ZeroDivisionError

    def rewind(self, step: int) -> None:
        """Fails."""
        raise ZeroDivisionError


def test_no_method_of_a_detector_can_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """Bounds, state and rewind are contained as well; the others keep theirs."""
    good = Other()
    good.bound = 5.0
    run = run_of(Hopeless(), good)
    with caplog.at_level(logging.ERROR):
        observe(run, 1)
        run.answered("rollback", "", True, 1, {"restored_step": 0})
        state = run.state()
    assert run.limits.now == {"loss": 5.0}
    assert good.rewound == [0]
    assert set(state["detectors"]) == {"grad_spike"}


def test_a_rollback_rewinds_and_what_was_measured_before_it_is_not_judged() -> None:
    """Frames that were on their way show in the chart and nowhere else."""
    detector = Scripted({4: finding(4), 6: finding(6), 90: finding(90)})
    run = run_of(detector)
    (order,) = observe(run, 4).orders
    changed = run.answered("rollback", order.incident, True, 7, {"restored_step": 2})
    assert [i.id for i in changed] == [order.incident]
    assert (detector.rewound, run.rollbacks) == ([2], [(7, 2)])
    for step in (5, 6, 7):
        assert observe(run, step) == Outcome()
    assert detector.seen == [4]
    assert observe(run, 90).orders
    assert run.charts.histories["loss"].series("loss").steps


def test_a_veto_before_a_known_rollback_did_happen() -> None:
    """It is counted although its step is not judged any more."""
    run = run_of(Scripted({4: finding(4)}))
    (order,) = observe(run, 4).orders
    run.answered("rollback", order.incident, True, 7, {"restored_step": 2})
    observe(run, 6, loss=9.0, skipped=wire.SKIP_LOSS)
    assert [a.action for a in run.incidents.all[0].actions] == ["rollback", "skip"]


def test_a_failed_rollback_undoes_nothing() -> None:
    """The incident says why; detectors and history stay."""
    detector = Scripted({4: finding(4)})
    run = run_of(detector)
    (order,) = observe(run, 4).orders
    (incident,) = run.answered("rollback", order.incident, False, 5, {"why": "no snapshot"})
    assert incident.actions[0].result == "failed: why no snapshot"
    assert incident.is_open
    assert (detector.rewound, run.rollbacks, run.actions) == ([], [], 0)


def a_spike_to_ten() -> tuple[Run, Outcome]:
    """Losses of 0.1, then of 10, and the step at which the rollback is ordered."""
    run = run_of(Scripted({22: finding(21)}))
    for step in range(21):
        observe(run, step, loss=0.1)
    observe(run, 21, loss=10.0)
    return run, observe(run, 22, loss=10.0)


def test_with_a_rollback_comes_the_bound_that_keeps_what_is_bad_from_what_is_restored() -> None:
    """Half way by ratio, at once: the answer would come when the next bad batch has been taken."""
    run, outcome = a_spike_to_ten()
    assert [order.action for order in outcome.orders] == ["rollback"]
    assert outcome.limits_changed
    assert run.limits.now["loss"] == pytest.approx(1.0)


def test_that_bound_is_lifted_where_the_run_could_not_be_rolled_back() -> None:
    """Its twin: skipping alone must not hide that it has diverged."""
    run, outcome = a_spike_to_ten()
    run.answered("rollback", outcome.orders[0].incident, False, 23, {"why": "no snapshot"})
    assert "loss" not in run.limits.now


def test_the_lowest_bound_is_the_limit() -> None:
    """Of several detectors the strictest counts, and a change is said."""
    one, two = Scripted(), Other()
    run = run_of(one, two)
    assert not observe(run, 1).limits_changed
    one.bound, two.bound = 5.0, 3.0
    assert observe(run, 2).limits_changed
    assert run.limits.now == {"loss": 3.0}
    assert not observe(run, 3).limits_changed


def test_everything_is_bounded() -> None:
    """Metrics, events and long words: each has a limit."""
    run = run_of(Scripted())
    for step in range(100):
        observe(run, step, **{f"metric_{step}": 1.0})
    for step in range(2000):
        run.tell("k" * 1000, step, "m" * 100_000)
        run.answered("rollback", "", True, step, {"restored_step": 0, "why": "w" * 100_000})
    assert len(run.charts.histories) == len(run.charts.last) == 64
    assert len(run.events) == 500
    assert len(run.rollbacks) == 500
    assert max(len(e.message) + len(e.kind) for e in run.events) < 600


def test_a_restored_run_finds_what_the_first_would_have_found() -> None:
    """Real detectors, cut at any step: the rest of the stream gives the same findings."""
    losses = [*healthy_losses(200), *[40.0] * 4, *healthy_losses(60, seed=3)]

    def findings_of(cut: int) -> list[Finding]:
        run = run_of(*default_detectors())
        found: list[Finding] = []
        for step, loss in enumerate(losses):
            if step == cut:
                saved = msgspec.msgpack.decode(msgspec.msgpack.encode(run.state()))
                kept = [i.kept() for i in run.incidents.all]
                run = run_of(*default_detectors())
                run.incidents.restore(kept)
                run.restore(saved)
            found += observe(run, step, loss=loss).findings
        return found

    whole = findings_of(-1)
    assert whole
    for cut in (1, 100, 199, 201, 202, 204, 230):
        assert findings_of(cut) == whole


def test_a_detector_whose_state_does_not_fit_starts_afresh() -> None:
    """The rest is taken up, and its open trouble does not stay open for ever."""
    run = run_of(Scripted({3: finding(3)}), Other())
    observe(run, 3)
    saved = run.state()
    saved["detectors"]["loss_spike"] = {"of": "another version"}
    fresh = run_of(Scripted(), Other())
    fresh.incidents.restore([i.kept() for i in run.incidents.all])
    fresh.restore(saved)
    assert fresh.step == 3
    for step in range(4, 40):
        observe(fresh, step)
    assert fresh.incidents.open == []


def test_observe_is_the_default_of_doing_nothing() -> None:
    """The same findings, and no order."""
    run = run_of(Scripted({3: finding(3)}), policy="observe")
    outcome = observe(run, 3)
    assert outcome.findings
    assert outcome.orders == []


def test_a_step_is_proven_good_by_what_comes_after_it() -> None:
    """64 steps later, in steps of 16; and not past the onset of trouble that is open."""
    run = Run("r", find_policy("guard"), [LossSpike()], lambda: 0.0)
    told = []
    for step in range(1, 401):
        value = 50.0 if 300 <= step < 304 else 2.0 + 0.01 * (step % 7)
        before = run.proven_step
        outcome = run.observe(Observation(step, {"loss": value}))
        if run.proven_step != before:
            assert outcome.limits_changed, "the loop is told"
            told.append((step, run.proven_step))
        if step == 330:
            assert run.proven_step == 256
    assert told[:3] == [(64, 0), (80, 16), (96, 32)]
    assert told[-1] == (400, 336), "it is over, and long ago"


def test_no_step_is_proven_past_open_trouble() -> None:
    """However long it goes on; a warning is enough, a note is not."""
    for severity, proven in ((Severity.WARNING, 288), (Severity.INFO, 336)):
        scripted = Scripted({300: finding(300, severity=severity)})
        run = Run("r", find_policy("guard"), [scripted], lambda: 0.0)
        for step in range(1, 401):
            run.observe(Observation(step, {"loss": 1.0}))
        assert run.proven_step == proven
