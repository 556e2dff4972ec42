"""LrJump: schedules of every kind are silent, and what leaves them is not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.lr_jump import LrJump, LrJumpConfig

PEAK = 1e-3
AT = 400

Rates = Sequence[float]


def cosine(num_steps: int, warm_up: int = 0, last: float = 0.0) -> list[float]:
    """A linear warm-up and a cosine decay."""
    rates = []
    for t in range(num_steps):
        shape = 0.5 * (1.0 + math.cos(math.pi * (t - warm_up) / max(num_steps - 1 - warm_up, 1)))
        warm = (t + 1) / warm_up if warm_up else 1.0
        rates.append(warm * PEAK if t < warm_up else last + (PEAK - last) * shape)
    return rates


def feed(
    rates: Rates, losses: Sequence[float] | None = None, steps: Sequence[int] | None = None
) -> list[Finding]:
    """The findings on one rate a step."""
    detector = LrJump()
    said = []
    for i, rate in enumerate(rates):
        values = {"lr": rate}
        if losses is not None:
            values["loss"] = losses[i]
        said.append(detector.update(Observation(steps[i] if steps else i, values)))
    return [finding for finding in said if finding is not None]


SCHEDULES: dict[str, Rates] = {
    "constant": [PEAK] * 1000,
    "linear warm-up and cosine": cosine(2000, 200),
    "linear decay to zero in 45 epochs": [PEAK * (44 - t) / 44 for t in range(45)],
    "cosine to zero in 30 epochs": cosine(30),
    "cosine to zero in 3000 steps": cosine(3000),
    "linear decay to zero in 3000 steps": [PEAK * (2999 - t) / 2999 for t in range(3000)],
    "decay in a log that rounds": [round(6e-4 * max(1 - t / 3000, 0) ** 2, 6) for t in range(3300)],
    "exponential warm-up": [1e-7 * 1.05 ** min(t, 200) for t in range(600)],
    "finder over ten decades": [1e-9 * 10 ** (t / 20) for t in range(200)],
    "finder in thirty rows": [1e-7 * 1.8**t for t in range(30)],
    "decays by 10": [PEAK * 0.1 ** (t // 300) for t in range(1500)],
    "decays by 500": [PEAK * 0.002 ** (t // 300) for t in range(900)],
    "decay by 10 every epoch": [PEAK * 0.1**t for t in range(12)],
    "warm restarts": cosine(300) * 5,
    "warm restarts with a warm-up": cosine(300, 20) * 5,
    "triangles from zero": [PEAK * (1 - abs(t % 200 - 100) / 100) for t in range(1000)],
    "saw teeth, dropping to a thousandth": [PEAK * (1 + t % 2000) / 2000 for t in range(6000)],
    "one cycle in 30 epochs": [
        *np.interp(np.arange(30), [0, 9, 29], [PEAK / 25, PEAK, PEAK / 1e4]).tolist()
    ],
    "one cycle in 3000 steps": [
        *np.interp(np.arange(3000), [0, 900, 2999], [PEAK / 25, PEAK, PEAK / 1e4]).tolist()
    ],
    "warm-up in the first rows of a log in epochs": [1e-6, 1e-5, 1e-4, 1e-3] + [1e-3] * 26,
    "first row at almost nothing": [1e-9] + [1e-3] * 50,
    "nothing for long, then the rate": [0.0] * 200 + [1e-3] * 200,
    "zero now and then": [0.0 if t % 50 == 0 else 1e-3 for t in range(500)],
    "stairs that double": [1e-5 * 2 ** (t // 100) for t in range(1000)],
    "inverse square root": [PEAK * min((t + 1) / 100, (100 / (t + 1)) ** 0.5) for t in range(3000)],
    "warm-up anew to the former peak": [*cosine(500), *cosine(1500, 100)],
}


@pytest.mark.parametrize("rates", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_is_silent(rates: Rates) -> None:
    """No schedule in common use says anything."""
    assert feed(rates) == []


@pytest.mark.parametrize("every", [10, 100])
def test_a_schedule_logged_now_and_then_is_silent(every: int) -> None:
    """A row every 10 or 100 steps holds larger increments, and is silent too."""
    assert feed(cosine(20_000, 2_000)[::every]) == []


def test_a_resume_may_begin_anew() -> None:
    """Steps that go back bring a rate 20 times higher: the user's choice."""
    rates = [1e-4] * 300 + [2e-3] * 300
    steps = [*range(300), *range(200, 500)]
    assert feed(rates, steps=steps) == []
    assert len(feed(rates)) == 2


@pytest.mark.parametrize("name", ["constant", "linear warm-up and cosine", "warm restarts"])
def test_a_hundred_times_at_once_is_found_at_the_step(name: str) -> None:
    """The finding says from what to what, and is over once the rate is back."""
    rates = list(SCHEDULES[name])
    before = rates[AT - 1]
    rates[AT : AT + 10] = [100 * PEAK] * 10
    first, last = feed(rates)
    assert (first.severity, first.onset_step, first.detected_step) == (Severity.WARNING, AT, AT)
    assert f"went from {before:.4g} to 0.1" in first.message
    assert f"at step {AT}" in first.message
    assert (last.end_step, last.detected_step) == (AT + 9, AT + 14)


def test_a_jump_is_critical_once_the_loss_follows() -> None:
    """Two losses far above their level turn the warning critical; a steady loss does not."""
    rates = [PEAK] * AT + [100 * PEAK] * 100
    noise = 0.02 * np.random.default_rng(0).standard_normal(AT + 100)
    steady = (2.0 + noise).tolist()
    rising = [*steady[: AT + 2], *(2.0 + 0.5 * t for t in range(98))]
    assert [f.severity for f in feed(rates, steady)] == [Severity.WARNING]
    first, second = feed(rates, rising)
    assert (first.severity, second.severity) == (Severity.WARNING, Severity.CRITICAL)
    assert second.onset_step == AT
    assert AT + 3 <= second.detected_step <= AT + 6


def test_a_loss_that_rises_much_later_is_not_blamed_on_the_jump() -> None:
    """The loss has 32 observations to follow."""
    rates = [PEAK] * AT + [100 * PEAK] * 100
    losses = [2.0] * (AT + 60) + [9.0] * 40
    assert [f.severity for f in feed(rates, losses)] == [Severity.WARNING]


def test_a_loss_that_is_not_finite_agrees() -> None:
    """A loss that becomes NaN right after a jump counts as having left its level."""
    rates = [PEAK] * AT + [100 * PEAK] * 10
    losses = [2.0] * (AT + 1) + [math.nan] * 9
    assert feed(rates, losses)[-1].severity is Severity.CRITICAL


def test_a_first_rise_by_ten_is_a_note_and_a_later_one_a_warning() -> None:
    """A constant warm-up ends in one; a rate that has risen before does not do so."""
    constant = [PEAK / 10] * AT + [PEAK] * 100
    (note,) = feed(constant)
    assert note.severity is Severity.INFO
    warmed = cosine(AT, 50, last=PEAK)
    (warning,) = feed(warmed + [10 * PEAK] * 100)
    assert warning.severity is Severity.WARNING


def test_a_rate_that_stays_becomes_the_schedule() -> None:
    """After 256 rates the new one is usual, and the next jump starts from there."""
    rates = [PEAK] * AT + [30 * PEAK] * 400 + [900 * PEAK] * 3
    opened, settled, again = feed(rates)
    assert opened.onset_step == AT
    assert settled.end_step is not None
    assert "stayed" in settled.message
    assert again.onset_step == AT + 400


def test_a_sudden_collapse_is_found_where_it_began() -> None:
    """A rate that is nearly nothing all at once, and stays, is a warning dated to the drop."""
    rates = [PEAK] * AT + [1e-8] * 50
    (finding,) = feed(rates)
    assert (finding.severity, finding.onset_step) == (Severity.WARNING, AT)
    assert finding.detected_step == AT + 4
    assert "from 0.001 to 1e-08" in finding.message


def test_a_rate_of_zero_for_one_step_is_no_collapse() -> None:
    """A gap of one or two rows in a log is not worth a word."""
    rates = [PEAK] * 1000
    rates[AT : AT + 2] = [0.0, 0.0]
    assert feed(rates) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-3])
def test_a_rate_that_is_none_is_a_warning(bad: float) -> None:
    """Negative and non-finite rates are told at once, and teach nothing."""
    rates = [PEAK] * AT + [bad] + [PEAK] * 20 + [100 * PEAK]
    nonsense, over, jump = feed(rates)
    assert (nonsense.severity, nonsense.onset_step) == (Severity.WARNING, AT)
    assert over.end_step == AT
    assert jump.onset_step == AT + 21


def test_a_log_of_thirty_epochs_is_enough() -> None:
    """A hundred times is found in the twentieth row of a log in epochs."""
    rates = cosine(30, 3)
    assert feed(rates) == []
    rates[20] = 100 * PEAK
    assert feed(rates)[0].onset_step == 20


@pytest.mark.parametrize("wrong", [{"factor": 1.0}, {"collapse": 0.5}, {"stay": 1}, {"usual": 0}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LrJumpConfig(**wrong)  # type: ignore[arg-type]
