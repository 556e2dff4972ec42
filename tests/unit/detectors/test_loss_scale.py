"""LossScale: the life of a healthy scaler is silent, and what wears it down is not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.loss_scale import LossScale, LossScaleConfig

SKIP_SCALER = 16.0
SKIP_NONFINITE = 1.0


class Scaler:
    """torch.amp.GradScaler's rule, for updates that overflow above a scale of 2^limit."""

    def __init__(self, log2: float = 16.0, interval: int = 2000) -> None:
        self.log2 = log2
        self.interval = interval
        self.good = 0

    def step(self, limit: float) -> tuple[float, float]:
        """Scale of this update, and its skip mask."""
        scale = 2.0**self.log2
        if self.log2 > limit:
            self.log2 -= 1.0
            self.good = 0
            return scale, SKIP_SCALER
        self.good += 1
        if self.good == self.interval:
            self.log2 += 1.0
            self.good = 0
        return scale, 0.0


def train(limits: Sequence[float], log2: float = 16.0, interval: int = 2000) -> list[list[float]]:
    """Scales and skip masks of a run in which gradients allow 2^limit at each step."""
    scaler = Scaler(log2, interval)
    return [list(scaler.step(limit)) for limit in limits]


def feed(
    rows: Sequence[Sequence[float]],
    losses: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
) -> list[Finding]:
    """The findings on rows of scale and, where there is one, skip mask."""
    detector = LossScale()
    said = []
    for i, row in enumerate(rows):
        values = dict(zip(("loss_scale", "skipped"), row, strict=False))
        if losses is not None:
            values["loss"] = losses[i]
        said.append(detector.update(Observation(steps[i] if steps else i, values)))
    return [finding for finding in said if finding is not None]


def noisy(num_steps: int, sigma: float = 1.0) -> list[float]:
    """What gradients allow, about 2^14, from step to step."""
    random = np.random.default_rng(0)
    return list(map(float, 14.0 + sigma * random.standard_normal(num_steps)))


def scales(*log2: float) -> list[list[float]]:
    """Rows with nothing but a scale."""
    return [[2.0**x] for x in log2]


@pytest.mark.parametrize("interval", [100, 500, 2000])
def test_a_scaler_that_looks_for_its_limit_for_ever_is_silent(interval: int) -> None:
    """Doublings each `interval` steps and halvings now and then are its normal life."""
    assert feed(train(noisy(20_000), interval=interval)) == []


@pytest.mark.parametrize("first", [16.0, 24.0, 32.0])
def test_the_first_search_is_silent(first: float) -> None:
    """From 2^16, or DeepSpeed's 2^32, down to 2^4 by one overflow after the other."""
    assert feed(train([4.0] * 500, log2=first)) == []
    assert feed([row[:1] for row in train([4.0] * 500, log2=first)]) == []


def test_a_scaler_made_anew_may_search_again() -> None:
    """A jump back up to 2^16, or steps that go back, begin a new search."""
    rows = train([6.0] * 300) + train([6.0] * 300)
    assert feed(rows) == []
    resumed = train([6.0] * 300, log2=6.0) + train([1.0] * 300, log2=7.0)
    assert feed(resumed, steps=[*range(300), *range(250, 550)]) == []
    assert len(feed(resumed)) > 0


@pytest.mark.parametrize("scale", [0.0, 1.0, 128.0, 2.0**24])
def test_a_constant_scale_is_silent(scale: float) -> None:
    """No scaler at work, or a static one."""
    assert feed([[scale, 0.0]] * 3_000) == []


def test_a_collapse_is_dated_to_its_first_halving() -> None:
    """Five halvings within 8 steps warn; the end comes 32 quiet steps after the last."""
    limits = [14.0] * 400 + [7.0] * 60 + [14.0] * 60
    first, last = feed(train(limits, log2=14.0))
    assert (first.severity, first.onset_step) == (Severity.WARNING, 401)
    assert first.detected_step == 405
    assert "from 1.638e+04 to 512" in first.message
    assert (last.end_step, last.detected_step) == (407, 407 + 32)


def test_a_collapse_that_goes_on_below_one_is_critical() -> None:
    """Gradients that overflow at any scale: a warning on the way, critical below 1."""
    first, second = feed(train([14.0] * 400 + [-20.0] * 30, log2=14.0))
    assert (first.severity, second.severity) == (Severity.WARNING, Severity.CRITICAL)
    assert second.onset_step == first.onset_step == 401


def test_a_slow_collapse_is_found_too() -> None:
    """A halving every tenth step is six within 64."""
    rows = [[2.0 ** (14 - max(0, t - 400) // 10)] for t in range(480)]
    (finding,) = feed(rows)
    assert finding.onset_step == 410
    assert finding.detected_step <= 470


def test_a_collapse_with_a_rising_loss_is_critical() -> None:
    """Three halvings are enough while the loss is up, and none while it is not."""
    rows = train([14.0] * 400 + [11.0] * 100, log2=14.0)
    steady = [2.5 + 0.01 * math.sin(t) for t in range(500)]
    rising = [x + (2.0 if t >= 400 else 0.0) for t, x in enumerate(steady)]
    assert feed(rows, steady) == []
    (finding, _) = feed(rows, rising)
    assert (finding.severity, finding.onset_step) == (Severity.CRITICAL, 401)
    assert "the loss is up" in finding.message


def test_a_bursty_loss_during_the_first_search_is_silent() -> None:
    """Two high losses in a row are chance where little is known."""
    rows = train([4.0] * 100)
    losses = [1.0, 1.1, 1.05, *[2.5, 2.6, 1.0] * 32, 1.0]
    assert feed(rows, losses) == []


def test_a_short_log_that_begins_in_the_collapse_is_enough() -> None:
    """A scale of 2^-16 is told when first seen, and a halving below 1 as well."""
    first, second = feed(scales(-16, -16, -17))
    assert (first.severity, first.onset_step) == (Severity.WARNING, 0)
    assert (second.severity, second.detected_step) == (Severity.CRITICAL, 2)
    first, second = feed(scales(-4, -4, -5, -8, -8))
    assert (first.severity, first.onset_step) == (Severity.WARNING, 2)
    assert (second.severity, second.detected_step) == (Severity.CRITICAL, 3)


def test_a_scale_of_zero_is_the_end_of_a_collapse_or_no_scaler() -> None:
    """Zero after a scale below 1 is another halving; zero from a sound scale is none."""
    assert feed(scales(*[14.0] * 50) + [[0.0]] * 50) == []
    assert feed([*scales(*[-4.0] * 50), [0.0]])[0].onset_step == 50


def test_overflows_at_the_least_scale_mean_it_is_stuck() -> None:
    """A scaler that may not go below 1 overflows there again and again."""
    healthy = [[1.0, 0.0]] * 200
    stuck = [[1.0, SKIP_SCALER if t % 5 == 0 else 0.0] for t in range(30)]
    first, last = feed(healthy + stuck + healthy)
    assert (first.severity, first.detected_step) == (Severity.WARNING, 215)
    assert last.end_step == 225
    others = [[1.0, SKIP_NONFINITE if t % 5 == 0 else 0.0] for t in range(30)]
    assert feed(healthy + others + healthy) == []


def test_dropping_more_than_a_tenth_of_the_updates_is_a_warning() -> None:
    """One in eight is too many, one in twelve is not."""
    for every, num_findings in [(8, 2), (12, 0)]:
        skipped = [SKIP_SCALER if t > 300 and t % every == 0 else 0.0 for t in range(900)]
        rows = [[2.0**14, mask] for mask in skipped] + [[2.0**14, 0.0]] * 200
        assert len(feed(rows)) == num_findings


def test_a_climb_is_a_line_at_first_and_a_warning_past_two_to_the_24() -> None:
    """Each is said once, though the scale swings about the bound."""
    rows = train([21.5] * 3_000, log2=16.0, interval=100)
    (line,) = feed(rows)
    assert line.severity is Severity.INFO
    higher = train([40.0] * 3_000, log2=16.0, interval=100)
    assert [f.severity for f in feed(higher)] == [Severity.INFO, Severity.WARNING]


def test_a_climb_that_ends_in_a_collapse_ends_first() -> None:
    """The collapse has an onset of its own."""
    rows = train([22.5] * 2_000 + [2.0] * 60, log2=16.0, interval=100)
    climb, over, collapse, *_ = feed(rows)
    assert (climb.severity, collapse.severity) == (Severity.INFO, Severity.WARNING)
    assert over.end_step is not None
    assert collapse.onset_step >= 2_000


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 1e38])
def test_a_value_that_is_no_scale_says_nothing(bad: float) -> None:
    """It neither alarms nor enters the state."""
    rows = train([14.0] * 800, log2=14.0)
    rows[300] = [bad, 0.0]
    assert feed(rows) == []


@pytest.mark.parametrize("wrong", [{"tiny": 2.0}, {"skip_share": 1.5}, {"high": 0.5}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LossScaleConfig(**wrong)  # type: ignore[arg-type]
