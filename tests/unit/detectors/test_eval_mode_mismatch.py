"""EvalModeMismatch: forgotten model.eval() and model.train(), and gaps that look like them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.eval_mode_mismatch import EvalModeMismatch, EvalModeMismatchConfig

EVERY = 50

Row = dict[str, float]


def training(num_steps: int, frozen: float = 0.0, seed: int = 0) -> list[Row]:
    """A run with an evaluation every 50 steps; a share of its modules is frozen."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for step in range(num_steps):
        level = 1.0 + 3.0 / (1.0 + step / 20.0)
        row = {
            "loss": level * math.exp(0.05 * random.standard_normal()),
            "train_in_eval": frozen,
        }
        if step % EVERY == EVERY - 1:
            row |= {"val_loss": 1.05 * level, "eval_in_training": 0.0}
        rows.append(row)
    return rows


def feed(rows: Sequence[Mapping[str, float]]) -> list[Finding]:
    """The findings on one row a step."""
    detector = EvalModeMismatch()
    said = [detector.update(Observation(step, row)) for step, row in enumerate(rows)]
    return [finding for finding in said if finding is not None]


@pytest.mark.parametrize("frozen", [0.0, 0.7, 1.0])
def test_a_run_in_the_right_modes_is_silent(frozen: float) -> None:
    """Also where batch norm is frozen from the start."""
    assert feed(training(2_000, frozen)) == []


def test_a_forgotten_eval_is_a_line_once_and_a_warning_twice() -> None:
    """The second evaluation in a row escalates, the next right one ends it."""
    rows = training(1_000)
    for step in (499, 549):
        rows[step]["eval_in_training"] = 1.0
    line, warning, over = feed(rows)
    assert (line.severity, line.onset_step) == (Severity.INFO, 499)
    assert (warning.severity, warning.onset_step) == (Severity.WARNING, 499)
    assert "model.eval() was forgotten" in warning.message
    assert (over.end_step, over.detected_step) == (549, 599)


def test_it_is_found_from_the_first_evaluations_on() -> None:
    """A model that is never put into eval mode: two evaluations are enough."""
    rows = training(200)
    for row in rows:
        if "eval_in_training" in row:
            row["eval_in_training"] = 0.8
    assert [f.severity for f in feed(rows)] == [Severity.INFO, Severity.WARNING]


def test_single_evaluations_in_training_mode_are_lines_only() -> None:
    """An odd forward without gradients in between is no reason to worry."""
    rows = training(3_000)
    for step in range(499, 3_000, 500):
        rows[step]["eval_in_training"] = 1.0
    assert {f.severity for f in feed(rows)} == {Severity.INFO}


@pytest.mark.parametrize("frozen", [0.0, 0.7])
def test_a_forgotten_train_after_an_evaluation_is_a_warning(frozen: float) -> None:
    """Training in eval mode right after an evaluation, for twenty steps."""
    rows = training(1_000, frozen)
    for row in rows[500:600]:
        row["train_in_eval"] = 1.0
    first, last = feed(rows)
    assert (first.severity, first.onset_step, first.detected_step) == (Severity.WARNING, 500, 519)
    assert "model.train() was forgotten" in first.message
    assert (last.end_step, last.detected_step) == (599, 604)


def test_modules_frozen_in_the_middle_are_a_line() -> None:
    """No evaluation came before: it may be on purpose."""
    rows = training(1_000)
    for row in rows[520:]:
        row["train_in_eval"] = 0.6
    (line,) = feed(rows)
    assert (line.severity, line.onset_step) == (Severity.INFO, 520)


def test_a_few_steps_in_eval_mode_are_silent() -> None:
    """Less than twenty in a row."""
    rows = training(1_000)
    for step in range(500, 1_000, 50):
        for row in rows[step : step + 15]:
            row["train_in_eval"] = 1.0
    assert feed(rows) == []


def plain(rows: Sequence[Row], factor: float) -> list[Row]:
    """A log that knows of losses only, with the validation losses multiplied."""
    return [
        {k: v * (factor if k == "val_loss" else 1.0) for k, v in row.items() if "loss" in k}
        for row in rows
    ]


def test_a_gap_from_the_first_evaluation_on_is_a_line() -> None:
    """Four times the training loss in all of the first three; it ends when they meet."""
    rows = training(1_000)
    (line,) = feed(plain(rows, 4.0))
    assert (line.severity, line.metric) == (Severity.INFO, "val_loss")
    assert (line.onset_step, line.detected_step) == (49, 149)
    line, over = feed(plain(rows, 4.0)[:500] + plain(rows, 1.0)[500:])
    assert over.end_step is not None
    assert over.detected_step == 549


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.0])
def test_a_validation_loss_near_the_training_loss_is_silent(factor: float) -> None:
    """Regularised models have the lower one in validation, small data twice the other."""
    assert feed(plain(training(1_000), factor)) == []


def test_a_gap_that_opens_is_overfitting() -> None:
    """It is not there from the start, or grows by half from one evaluation to the next."""
    rows = plain(training(1_000), 1.0)
    for i, row in enumerate(rows[EVERY - 1 :: EVERY]):
        row["val_loss"] *= 3.5 * 1.6**i
    assert feed(rows) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_absurd_values_are_ignored(bad: float) -> None:
    """They are no shares and no losses."""
    rows = training(1_000)
    for step in (49, 499, 500):
        rows[step] = dict.fromkeys(rows[step], bad)
    assert feed(rows) == []


@pytest.mark.parametrize("wrong", [{"in_training": 1.5}, {"gap": 0.5}, {"stay": 1}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        EvalModeMismatchConfig(**wrong)  # type: ignore[arg-type]
