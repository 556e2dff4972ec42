"""What a zoom has found ends up in the incident it is about, whichever comes first."""

from __future__ import annotations

import math

from lossguard.agent.policy import find_policy
from lossguard.agent.run import Run
from lossguard.agent.zooms import Zooms
from lossguard.detectors import Finding, Observation, Severity, Symptom
from lossguard.detectors.nonfinite import Nonfinite

WORDS = "first bad: blocks.3.mlp.act (GELU), its input is finite, absmax 2e+04"
DATA: dict[str, float | int | str] = {
    "metric": "loss", "where": "blocks.3.mlp.act", "kind": "GELU", "input_is_finite": 1,
    "weights_are_finite": 1, "input_absmax": 2e4,
}  # fmt: skip


def fresh() -> Run:
    """A run that knows of NaN only."""
    return Run("r", find_policy("observe"), [Nonfinite()], lambda: 0.0)


def feed(run: Run, first: int, last: int, loss: float) -> None:
    """Steps with this loss."""
    for step in range(first, last + 1):
        run.observe(Observation(step, {"loss": loss, "grad_norm": 1.0}))


def test_a_word_that_comes_before_its_step_waits_for_it() -> None:
    """Events overtake measurements on the way."""
    run = fresh()
    feed(run, 1, 9, 2.0)
    assert run.zoomed(10, WORDS, DATA) == []
    feed(run, 10, 10, math.nan)
    line = run.incidents.open[0].line()
    assert line.where == "blocks.3.mlp.act"
    assert line.message == f"loss is nan at step 10; {WORDS}"
    assert line.evidence["input_absmax"] == 2e4


def test_a_word_that_comes_late_changes_the_open_incident() -> None:
    """From an accelerator it comes steps later; what is said again, and the end, keep it."""
    run = fresh()
    feed(run, 1, 9, 2.0)
    feed(run, 10, 12, math.nan)
    (incident,) = run.incidents.open
    assert incident.line().where == ""
    assert run.zoomed(10, WORDS, DATA) == [incident]
    assert run.zoomed(10, WORDS, DATA) == [], "the same again is nothing new"
    feed(run, 13, 20, math.nan)
    assert incident.line().message.startswith("persistent")
    assert incident.line().message.endswith(WORDS)
    feed(run, 21, 30, 2.0)
    assert not incident.is_open
    assert incident.line().where == "blocks.3.mlp.act"


def test_a_bad_batch_that_names_the_incident_has_it_too() -> None:
    """What the batch broke is worth knowing."""
    zooms = Zooms()
    zooms.take(10, WORDS, DATA)
    for symptom, is_located in ((Symptom.BAD_BATCH, True), (Symptom.LR_JUMP, False)):
        found = Finding(symptom, Severity.CRITICAL, "m", 10, 10, 1.0, "so it is")
        assert (zooms.located(found).where == "blocks.3.mlp.act") is is_located


def test_another_steps_word_is_not_this_incidents() -> None:
    """Nor is a word without a finding anything but a word."""
    run = fresh()
    run.zoomed(3, WORDS, DATA)
    feed(run, 1, 9, 2.0)
    assert run.incidents.all == []
    feed(run, 10, 10, math.nan)
    assert run.incidents.open[0].line().where == ""


def test_nonsense_from_a_probe_is_survived() -> None:
    """Of whatever type and length."""
    run = fresh()
    run.zoomed(2, "x" * 10**6, {"where": "y" * 10**6, "input_absmax": math.inf, "kind": 3})
    run.zoomed(2, "", {"where": 5, "input_absmax": "much"})
    feed(run, 1, 2, math.nan)
    line = run.incidents.open[0].line()
    assert len(line.where) <= 200
    assert len(line.message) < 10_000
