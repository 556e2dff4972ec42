"""Findings, vetoes, answers and restarts in any order: what must hold holds."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lossguard.agent.incidents import KeptIncident
from lossguard.agent.policy import Order, find_policy
from lossguard.agent.run import Run
from lossguard.detectors import Observation, Severity, Symptom
from lossguard.probes import wire
from tests.support.streams import Scripted, finding

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["calm", "find", "end", "veto", "answer", "fail", "restart"]),
        st.sampled_from(list(Symptom)),
        st.sampled_from(list(Severity)),
        st.integers(0, 30),
    ),
    max_size=60,
)


def fresh() -> tuple[Run, Scripted]:
    """A guarded run with a detector that does as it is told."""
    detector = Scripted()
    return Run("run-a", find_policy("guard"), [detector], lambda: 0.0), detector


def again(run: Run) -> tuple[Run, Scripted]:
    """The same run in the next agent, by way of the database."""
    saved = msgspec.msgpack.encode(run.state())
    kept = [msgspec.msgpack.encode(i.kept()) for i in run.incidents.all]
    other, detector = fresh()
    other.incidents.restore([msgspec.msgpack.decode(one, type=KeptIncident) for one in kept])
    other.restore(msgspec.msgpack.decode(saved))
    return other, detector


@settings(max_examples=150, deadline=None)
@given(events=EVENTS)
def test_one_order_an_incident_and_every_incident_makes_sense(
    events: list[tuple[str, Symptom, Severity, int]],
) -> None:
    """At most one unanswered order an incident, three rollbacks in 500 steps, ids used once, and
    an incident is resolved exactly when it has an end."""
    run, detector = fresh()
    waiting: dict[str, Order] = {}
    ordered: list[int] = []
    onsets: list[tuple[Symptom, Severity, int]] = []
    for step, (event, symptom, severity, back) in enumerate(events, start=40):
        values = {"loss": 1.0, "skipped": float(wire.SKIP_LOSS if event == "veto" else 0)}
        if event == "find":
            onsets.append((symptom, severity, step - back))
            detector.script[step] = finding(step - back, symptom, severity, detected_step=step)
        elif event == "end" and onsets:
            which, how, onset = onsets[back % len(onsets)]
            detector.script[step] = finding(onset, which, how, detected_step=step, end_step=step)
        elif event in ("answer", "fail") and waiting:
            name = next(iter(waiting))
            del waiting[name]
            run.answered("rollback", name, event == "answer", step, {"restored_step": step - 35})
        elif event == "restart":
            run, detector = again(run)
        for order in run.observe(Observation(step, values, applied=step)).orders:
            assert order.incident not in waiting
            waiting[order.incident] = order
            ordered.append(step)
        lines = [incident.line() for incident in run.incidents.all]
        assert len({line.id for line in lines}) == len(lines)
        assert all((line.state == "resolved") == (line.end_step is not None) for line in lines)
        assert len(ordered) <= 3
    for step in range(1000, 1100):
        run.observe(Observation(step, {"loss": 1.0}, applied=step))
    assert all(incident.is_active for incident in run.incidents.open)
