"""Clipping: too often, never, and the bound that the norms ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.clipping import Clipping, ClippingConfig

Array = npt.NDArray[np.float64]


def norms(num_steps: int, median: float = 0.5, sigma: float = 0.4, seed: int = 0) -> Array:
    """Log-normal gradient norms."""
    random = np.random.default_rng(seed)
    return np.asarray(median * np.exp(sigma * random.standard_normal(num_steps)))


def feed(
    grad_norms: Sequence[float] | Array,
    max_norm: float | Sequence[float] = 1.0,
    config: ClippingConfig | None = None,
) -> list[Finding]:
    """The findings on one norm a step."""
    detector = Clipping(config)
    said = []
    for step, norm in enumerate(grad_norms):
        bound = max_norm if isinstance(max_norm, float) else max_norm[step]
        said.append(
            detector.update(Observation(step, {"grad_norm": float(norm), "max_norm": bound}))
        )
    return [finding for finding in said if finding is not None]


@pytest.mark.parametrize("seed", range(3))
def test_a_clip_rate_of_a_few_per_cent_is_silent(seed: int) -> None:
    """The healthy twin: 4 % of the steps are clipped."""
    assert feed(norms(10_000, seed=seed)) == []


def test_large_gradients_of_the_first_steps_do_not_count() -> None:
    """A run that clips all of its warm-up and a few per cent after it is silent."""
    grad = norms(5_000)
    grad[:200] *= 20.0
    assert feed(grad) == []


def test_clipping_most_steps_for_long_is_one_line() -> None:
    """Half of 500 steps, once, with the percentiles in the evidence."""
    (finding,) = feed(norms(10_000, median=2.0))
    assert finding.severity is Severity.INFO
    assert finding.detected_step == 699
    assert f"in {finding.evidence['clip_rate']:.0%} of the last 500 steps" in finding.message
    assert finding.evidence["p50"] == pytest.approx(2.0, rel=0.08)
    assert finding.evidence["p99"] == pytest.approx(2.0 * np.exp(0.4 * 2.326), rel=0.15)
    assert finding.evidence["clip_rate"] == pytest.approx(0.96, abs=0.03)


def test_a_rate_about_the_bound_does_not_flap() -> None:
    """A rate of one half, give or take, opens few episodes in 50,000 steps."""
    assert len(feed(norms(50_000, median=1.0))) <= 4


def test_it_is_dated_to_the_first_clipped_step_and_ends_when_it_is_over() -> None:
    """From step 1,250 to 2,500 the gradients are five times as large."""
    grad = norms(4_000, median=0.3, sigma=0.3)
    grad[1_250:2_500] *= 5.0
    first, last = feed(grad)
    assert 1_250 <= first.onset_step <= 1_301
    assert first.detected_step <= 1_750
    assert last.end_step is not None
    assert 2_500 <= last.detected_step <= 2_800


def test_a_warning_is_for_those_who_ask() -> None:
    """By default every step may be clipped, and ten times over."""
    config = ClippingConfig(warn_above=2.0)
    assert {f.severity for f in feed(norms(3_000, median=10.0))} == {Severity.INFO}
    assert {f.severity for f in feed(norms(3_000, median=10.0), config=config)} == {
        Severity.WARNING
    }
    assert {f.severity for f in feed(norms(3_000, median=1.5), config=config)} == {Severity.INFO}


def test_clipping_that_never_acts_is_told_once() -> None:
    """After 2000 steps without one; a note that is over at the next block."""
    first, last = feed(norms(20_000, median=0.1, sigma=0.2))
    assert (first.severity, first.detected_step) == (Severity.INFO, 2_199)
    assert "clipped no gradient in 2000 steps" in first.message
    assert last.detected_step == 2_299


def test_a_bound_that_acts_now_and_then_is_silent() -> None:
    """One clipped step in 2,000 is enough."""
    grad = norms(10_000, median=0.1, sigma=0.2)
    grad[500::1_500] = 3.0
    assert feed(grad) == []


def test_another_bound_may_never_act_again() -> None:
    """What was told of one bound is told of the next."""
    grad = norms(6_000, median=0.1, sigma=0.2)
    bounds = [1.0] * 2_600 + [2.0] * 3_400
    said = [f for f in feed(grad, bounds) if f.end_step is None]
    assert [f.evidence["max_norm"] for f in said] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("median", "advised", "words"),
    [(2.0, None, "no clipping"), (4.0, 1.4, "good bound"), (30.0, 1.0, "look for the cause")],
)
def test_the_advice_goes_by_the_99th_percentile(
    median: float, advised: float | None, words: str
) -> None:
    """Below 5 none, up to 20 a bound of 1 to 2, above 20 a bound of 1 and a look at the cause."""
    (finding,) = feed(norms(1_000, median=median, sigma=0.3 if median < 3 else 0.4))
    assert words in finding.message
    if advised is None:
        assert "advised_max_norm" not in finding.evidence
    else:
        assert finding.evidence["advised_max_norm"] == pytest.approx(advised, abs=0.15)


def test_no_bound_is_silence() -> None:
    """Nothing clips: there is nothing to say."""
    detector = Clipping()
    for step, norm in enumerate(norms(3_000)):
        assert detector.update(Observation(step, {"grad_norm": float(norm)})) is None


@pytest.mark.parametrize(
    "wrong", [{"too_often": 1.5}, {"warn_above": 0.5}, {"wild_bound": 3.0}, {"block": 1}]
)
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ClippingConfig(**wrong)  # type: ignore[arg-type]
