"""BadBatch: out of the usual range is told, and what belongs to it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.bad_batch import BadBatch, BadBatchConfig

AT = 500

Row = dict[str, float]


def text(num_steps: int, seed: int = 0) -> list[Row]:
    """Batches of tokens: a common one, many rare ones, all of one length; a healthy loss."""
    random = np.random.default_rng(seed)
    return [
        {
            "input_top_share": 0.08 + 0.05 * random.random(),
            "input_distinct_share": 0.5 + 0.1 * random.random(),
            "input_length": 256.0,
            "loss": 3.0 * math.exp(0.03 * random.standard_normal()),
            "grad_norm": 0.5 * math.exp(0.2 * random.standard_normal()),
        }
        for _ in range(num_steps)
    ]


def images(num_steps: int, sigma: float = 0.1, seed: int = 0) -> list[Row]:
    """Batches of real numbers whose largest is log-normal."""
    random = np.random.default_rng(seed)
    return [
        {"input_absmax": 3.0 * math.exp(sigma * random.standard_normal())} for _ in range(num_steps)
    ]


def feed(rows: Sequence[Mapping[str, float]]) -> list[Finding]:
    """The findings on one batch a step."""
    detector = BadBatch()
    said = [detector.update(Observation(step, row)) for step, row in enumerate(rows)]
    return [finding for finding in said if finding is not None]


@pytest.mark.parametrize("seed", range(3))
def test_usual_batches_are_silent(seed: int) -> None:
    """The healthy twins, with light and heavy tails."""
    assert feed(text(5_000, seed)) == []
    assert feed(images(5_000, 0.1, seed)) == []
    assert feed(images(5_000, 1.0, seed)) == []


def test_largest_values_with_a_pareto_tail_are_silent() -> None:
    """Raw features whose batch maximum has no variance say little for all their outliers."""
    random = np.random.default_rng(1)
    rows = [{"input_absmax": 5.0 * float(random.pareto(1.5)) + 5.0} for _ in range(10_000)]
    said = feed(rows)
    assert [f for f in said if f.severity is not Severity.INFO] == []
    assert len(said) <= 6


def test_one_repeated_token_is_a_warning_for_that_batch() -> None:
    """All of the batch one token: told at once, over after three usual ones."""
    rows = text(1_000)
    rows[AT] |= {"input_top_share": 1.0, "input_distinct_share": 1 / 256}
    first, last = feed(rows)
    assert (first.severity, first.onset_step, first.detected_step) == (Severity.WARNING, AT, AT)
    assert first.metric == "input_top_share"
    assert first.message == "100% of the batch is one and the same value, where 13% was the most"
    assert (last.end_step, last.detected_step) == (AT, AT + 3)


def test_padding_heavy_batches_are_silent_where_they_are_usual() -> None:
    """Shares of padding from 5 to 95 %, now and then."""
    rows = text(3_000)
    random = np.random.default_rng(2)
    for row in rows:
        row["input_top_share"] = 0.05 + 0.9 * float(random.random()) ** 2
    assert feed(rows) == []


def test_noise_is_a_line_and_a_warning_when_the_loss_agrees() -> None:
    """Nearly all tokens different: the loss of the same batch tells whether it matters."""
    rows = text(1_000)
    rows[AT]["input_distinct_share"] = 0.99
    line, _ = feed(rows)
    assert (line.severity, line.metric) == (Severity.INFO, "input_distinct_share")
    rows[AT]["loss"] = 9.0
    warning, _ = feed(rows)
    assert warning.severity is Severity.WARNING
    assert "its loss is 9 where" in warning.message


def test_a_gradient_norm_agrees_too() -> None:
    """A batch of long samples with a gradient of 8 times its usual norm is a warning."""
    rows = text(1_000)
    rows[AT] |= {"input_length": 2_048.0, "grad_norm": 4.0}
    first, _ = feed(rows)
    assert (first.severity, first.metric) == (Severity.WARNING, "input_length")


@pytest.mark.parametrize(
    ("length", "severity"), [(2_048.0, Severity.INFO), (8_192.0, Severity.WARNING)]
)
def test_extreme_lengths(length: float, severity: Severity) -> None:
    """Eight times the longest so far is a line, 32 times a warning."""
    rows = text(1_000)
    rows[AT]["input_length"] = length
    assert feed(rows)[0].severity is severity


def test_a_curriculum_of_lengths_is_silent() -> None:
    """Samples that grow slowly, or by four at once, as from 128 to 512 tokens."""
    rows = text(4_000)
    for step, row in enumerate(rows):
        row["input_length"] = 64.0 * 1.002**step
    assert feed(rows) == []
    for step, row in enumerate(rows):
        row["input_length"] = 128.0 if step < 2_000 else 512.0
    assert feed(rows) == []


@pytest.mark.parametrize(
    ("factor", "severity"),
    [(8.0, Severity.INFO), (1e4, Severity.WARNING), (1e38, Severity.WARNING)],
)
def test_values_far_beyond_their_tail(factor: float, severity: Severity) -> None:
    """Beyond all that was seen and what its tail allows; gross at a hundred times."""
    rows = images(1_000)
    rows[AT]["input_absmax"] *= factor
    assert feed(rows)[0].severity is severity


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_a_warning_from_the_first_batch_on(bad: float) -> None:
    """It needs no history."""
    rows = images(50)
    rows[0]["input_absmax"] = bad
    first, _ = feed(rows)
    assert (first.severity, first.onset_step) == (Severity.WARNING, 0)


def test_a_constant_input_has_a_range_too() -> None:
    """A largest value that is always 1 leaves no spread: 1.5 is silent, 50 is not."""
    rows = [{"input_absmax": 1.0} for _ in range(1_000)]
    rows[300]["input_absmax"] = 1.5
    assert feed(rows) == []
    rows[AT]["input_absmax"] = 50.0
    assert feed(rows)[0].onset_step == AT


def test_a_second_dataset_becomes_usual_within_a_few_batches() -> None:
    """Every fifth batch is from another source: a few are told, and then no more."""
    rows = text(4_000)
    for row in rows[1_000::5]:
        row |= {"input_length": 4_096.0, "input_top_share": 0.95}
    said = feed(rows)
    assert len([f for f in said if f.end_step is None]) == 4
    assert max(f.detected_step for f in said) < 1_030


def test_a_lasting_change_of_data_becomes_usual() -> None:
    """32 batches in a row end the episode that they began, and are the range from then on."""
    rows = text(2_000)
    for row in rows[AT:]:
        row["input_length"] = 8_192.0
    first, last = feed(rows)
    assert first.onset_step == AT
    assert (last.detected_step, last.message) == (AT + 31, "batches like these are usual now")


def test_the_last_partial_batch_of_each_epoch_is_noted_three_times_at_most() -> None:
    """Few positions, nearly all different: harmless, and soon not worth a line."""
    rows = text(20_000)
    for row in rows[999::1_000]:
        row["input_distinct_share"] = 0.96
    said = feed(rows)
    assert {f.severity for f in said} == {Severity.INFO}
    assert len([f for f in said if f.end_step is None]) == 3


def test_a_bad_batch_that_recurs_is_told_each_time() -> None:
    """Gross ones are never learnt from so long as they are rare."""
    rows = text(6_000)
    for row in rows[500::100]:
        row["input_top_share"] = 1.0
    assert len([f for f in feed(rows) if f.end_step is None]) == 55


def test_a_giant_among_the_first_batches_does_not_blind() -> None:
    """It is left out when the range is first looked at."""
    rows = images(1_000)
    rows[5]["input_absmax"] = 1e30
    rows[AT]["input_absmax"] = 1e4
    assert [f.onset_step for f in feed(rows) if f.end_step is None] == [AT]


@pytest.mark.parametrize(
    "wrong",
    [{"share_margin": 1.5}, {"length_factor": 0.5}, {"absmax_gross": 1.25}, {"readmit": 99}],
)
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        BadBatchConfig(**wrong)  # type: ignore[arg-type]
