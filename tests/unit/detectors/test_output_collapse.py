"""OutputCollapse: one class only is told where the targets are many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.output_collapse import OutputCollapse, OutputCollapseConfig

AT = 120

Row = dict[str, float]


def samples(num: int, seed: int = 0, target: float = 0.1) -> list[Row]:
    """A language model's predictions, taken every 16th step."""
    random = np.random.default_rng(seed)
    return [
        {
            "top_token_share": min(1.0, target + 0.1 * float(random.random())),
            "output_entropy": 0.3 + 0.02 * float(random.standard_normal()),
            "target_top_share": max(0.0, target + 0.02 * float(random.standard_normal())),
            "loss": 3.0 * math.exp(0.03 * float(random.standard_normal())),
        }
        for _ in range(num)
    ]


def collapse(rows: Sequence[Row], start: int, stop: int, loss: float = 1.0) -> None:
    """Let the samples in between be of one class, with the loss multiplied."""
    for row in rows[start:stop]:
        row |= {"top_token_share": 0.99, "output_entropy": 0.01, "loss": loss * row["loss"]}


def feed(rows: Sequence[Mapping[str, float]]) -> list[Finding]:
    """The findings on one sample every 16 steps."""
    detector = OutputCollapse()
    said = [detector.update(Observation(16 * i, row)) for i, row in enumerate(rows)]
    return [finding for finding in said if finding is not None]


@pytest.mark.parametrize("target", [0.02, 0.3, 0.6, 0.95])
def test_a_healthy_model_is_silent(target: float) -> None:
    """Also where most of the targets are of one class."""
    assert feed(samples(2_000, target=target)) == []


def test_a_collapse_is_a_warning_dated_to_its_first_sample() -> None:
    """Told at the fourth sample, over at the third healthy one."""
    rows = samples(300)
    collapse(rows, AT, AT + 10)
    first, last = feed(rows)
    assert (first.severity, first.onset_step) == (Severity.WARNING, 16 * AT)
    assert first.detected_step == 16 * (AT + 3)
    assert "99% of the predictions are one class, where 10% of the targets are" in first.message
    assert (last.end_step, last.detected_step) == (16 * (AT + 9), 16 * (AT + 12))


def test_a_collapse_that_lasts_is_critical_where_the_loss_is_up() -> None:
    """After 16 samples; where the loss is not up it remains a warning."""
    rows = samples(300)
    collapse(rows, AT, 300)
    assert [f.severity for f in feed(rows)] == [Severity.WARNING]
    rows = samples(300)
    collapse(rows, AT, 300, loss=1.8)
    said = feed(rows)
    assert [f.severity for f in said] == [Severity.WARNING, Severity.CRITICAL]
    assert said[1].detected_step == 16 * (AT + 15)
    assert said[1].onset_step == 16 * AT


def test_one_sample_of_one_class_is_silent() -> None:
    """A batch of few positions can look so."""
    rows = samples(300)
    for at in range(100, 300, 10):
        collapse(rows, at, at + 2)
    assert feed(rows) == []


def test_a_fresh_model_may_predict_one_token_only() -> None:
    """Forty samples of the commonest token at the start, after a random first one, are normal."""
    rows = samples(300)
    collapse(rows, 2, 42)
    assert feed(rows) == []


def test_a_slow_start_is_silent_while_the_loss_falls() -> None:
    """A long warm-up holds a large model in that stage, and it learns the frequencies there."""
    rows = samples(300)
    for i, row in enumerate(rows[:120]):
        row |= {"top_token_share": 1.0, "loss": row["loss"] * (1.0 + 2.0 * math.exp(-i / 60.0))}
    assert feed(rows) == []


def test_a_model_that_never_leaves_one_class_is_told_once_its_loss_stands() -> None:
    """The same without progress: a warning when the first 64 samples are over."""
    rows = samples(200)
    collapse(rows, 0, 200)
    (finding,) = feed(rows)
    assert (finding.severity, finding.onset_step) == (Severity.WARNING, 0)
    assert finding.detected_step == 16 * 64


def test_predicting_the_padding_of_padded_targets_is_no_collapse() -> None:
    """A share that the targets have as well is right."""
    rows = samples(300)
    for row in rows[AT:]:
        row |= {"top_token_share": 0.97, "target_top_share": 0.8, "output_entropy": 0.02}
    assert feed(rows) == []


def test_without_targets_the_entropy_tells() -> None:
    """Near zero of its former value, and most predictions one class."""
    rows = samples(300)
    collapse(rows, AT, AT + 20)
    sure = [{k: v for k, v in row.items() if k != "target_top_share"} for row in rows]
    assert feed(sure)[0].onset_step == 16 * AT
    unsure = [dict(row) for row in sure]
    for row in unsure[AT : AT + 20]:
        row["output_entropy"] = 0.25
    assert feed(unsure) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 1e38])
def test_a_value_that_is_no_share_is_ignored(bad: float) -> None:
    """It neither alarms nor enters the state."""
    rows = samples(300)
    rows[100] = dict.fromkeys(rows[100], bad)
    collapse(rows, AT, AT + 5)
    assert [f.onset_step for f in feed(rows) if f.end_step is None] == [16 * AT]


@pytest.mark.parametrize("wrong", [{"top_share": 0.25}, {"stay": 1}, {"loss_rise": -1.0}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        OutputCollapseConfig(**wrong)  # type: ignore[arg-type]


def test_targets_that_are_suddenly_padding_are_named_as_the_cause() -> None:
    """Predictions that follow a collapse of the targets are a bug in the data, said at once."""
    detector = OutputCollapse()
    said = []
    for step in range(0, 640, 16):
        padded = step >= 320
        values = {
            "top_token_share": 0.95 if padded else 0.35,
            "target_top_share": 0.94 if padded else 0.19,
            "output_entropy": 0.04 if padded else 0.6,
            "loss": 0.1 if padded else 2.0,
        }
        finding = detector.update(Observation(step, values))
        if finding is not None:
            said.append(finding)
    assert [(f.onset_step, f.detected_step) for f in said] == [(320, 368)]
    assert "of the targets are one class" in said[0].message


def test_targets_that_were_always_one_class_are_left_alone() -> None:
    """The healthy twin: data of which 94 % is one class."""
    detector = OutputCollapse()
    values = {"top_token_share": 0.95, "target_top_share": 0.94, "output_entropy": 0.04}
    steps = range(0, 3_200, 16)
    assert [detector.update(Observation(step, values)) for step in steps] == [None] * len(steps)
