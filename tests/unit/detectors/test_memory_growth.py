"""MemoryGrowth: a steady trend towards the end of the memory, and none where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from lossguard.detectors import Finding, Observation, Severity
from lossguard.detectors.memory_growth import MemoryGrowth, MemoryGrowthConfig

GB = 1e9
TOTAL = 85 * GB
AT = 2_000

Array = npt.NDArray[np.float64]


def feed(
    num_steps: int, steps: Sequence[int] | None = None, **columns: Array | float
) -> list[Finding]:
    """The findings on some columns of memory."""
    detector = MemoryGrowth()
    said = []
    for i in range(num_steps):
        values = {
            name: float(column if isinstance(column, float) else column[i])
            for name, column in columns.items()
        }
        said.append(detector.update(Observation(steps[i] if steps else i, values)))
    return [finding for finding in said if finding is not None]


def flat(num_steps: int, level: float = 60 * GB, seed: int = 0) -> Array:
    """Memory that varies by a few tenths of a per cent with the length of the samples."""
    return level + 0.1 * GB * np.random.default_rng(seed).random(num_steps)


def leak(num_steps: int, per_step: float, level: float = 60 * GB) -> Array:
    """The same, and growing from step 2,000 on."""
    return flat(num_steps, level) + per_step * np.maximum(np.arange(num_steps) - AT, 0)


def device(allocated: Array) -> list[Finding]:
    """The findings on a device of 85 GB."""
    return feed(len(allocated), memory_allocated=allocated, memory_total=TOTAL)


def harmless(num_steps: int) -> dict[str, Array]:
    """What memory does in healthy runs."""
    t = np.arange(num_steps)
    base = flat(num_steps, 0.0)
    return {
        "flat": base + 60 * GB,
        "flat and nearly full": base + 83 * GB,
        "quick warm-up": base + 60 * GB - 20 * GB * np.exp(-t / 50.0),
        "slow warm-up": base + 60 * GB - 20 * GB * np.exp(-t / 300.0),
        "short saw teeth": base + 50 * GB + 10 * GB * (t % 200) / 200.0,
        "one step up": base + 40 * GB + 20 * GB * (t > 3_000),
        "steps up at evaluations": base + 40 * GB + 5 * GB * np.minimum(t // 2_000, 3),
        "long samples now and then": 30 * GB
        + 40 * GB * np.random.default_rng(1).random(num_steps) ** 8,
        "falling": base + 70 * GB - 1e6 * t,
    }


@pytest.mark.parametrize("name", harmless(1))
def test_harmless_changes_of_memory_are_silent(name: str) -> None:
    """On the device and in the process."""
    column = harmless(10_000)[name]
    assert device(column) == []
    assert feed(10_000, rss=column) == []


@pytest.mark.parametrize("per_step", [5e6, 2e7, 5e7])
def test_a_leak_is_a_warning_long_before_the_end_and_critical_near_it(per_step: float) -> None:
    """Found within 20 blocks, dated to within two, with what is left in steps."""
    end = AT + int(0.985 * 25 * GB / per_step)
    warning, critical = device(leak(end, per_step))
    assert (warning.severity, critical.severity) == (Severity.WARNING, Severity.CRITICAL)
    assert abs(warning.onset_step - AT) <= 64
    assert warning.detected_step <= AT + 660
    assert "the device is full" in warning.message
    left = (TOTAL - critical.evidence["allocated"]) / TOTAL
    assert 0.0 < left < 0.03


def test_a_slow_leak_is_found_on_a_longer_scale() -> None:
    """A megabyte a step would fill the device in 25,000 steps: told in the first 10,000."""
    (warning,) = device(leak(14_000, 1e6))
    assert warning.severity is Severity.WARNING
    assert warning.detected_step < 13_000


def test_a_leak_that_is_over_ends_the_episode() -> None:
    """By a plateau, or by falling back; it is told once."""
    allocated = leak(6_000, 1e7)
    plateau = allocated.copy()
    plateau[3_200:] = flat(2_800, 72 * GB)
    first, last = device(plateau)
    assert first.detected_step < 3_200
    assert last.end_step is not None
    assert last.detected_step < 3_700
    back = allocated.copy()
    back[3_200:] = flat(2_800)
    assert device(back)[-1].detected_step < 3_320


def test_a_leap_to_the_end_is_critical_at_once() -> None:
    """A quarter of the device within 150 steps leaves no time for a trend."""
    allocated = leak(AT + 144, 1.7e8)
    (critical,) = device(allocated)
    assert critical.severity is Severity.CRITICAL


def test_saw_teeth_that_are_longer_than_the_window_are_told_once() -> None:
    """From the second tooth on they lead no higher than before."""
    t = np.arange(20_000)
    allocated = flat(20_000, 50 * GB) + 10 * GB * (t % 3_000) / 3_000.0
    assert len([f for f in device(allocated) if f.end_step is None]) == 1


def test_a_growing_process_is_a_line_and_a_warning_once_it_has_doubled() -> None:
    """From 4 GB, by two megabytes a step."""
    rss = leak(6_000, 2e6, 4 * GB)
    line, warning = feed(6_000, rss=rss)
    assert (line.severity, warning.severity) == (Severity.INFO, Severity.WARNING)
    assert line.metric == "rss"
    assert line.detected_step <= AT + 660
    assert AT + 1_900 <= warning.detected_step <= AT + 2_200


def test_reserved_memory_in_pieces_is_a_line() -> None:
    """It grows to 80 GB for the 40 in use; where it always was so nothing is said."""
    allocated = flat(6_000, 40 * GB)
    reserved = np.full(6_000, 80 * GB)

    def said() -> list[Finding]:
        return feed(6_000, memory_allocated=allocated, memory_reserved=reserved, memory_total=TOTAL)

    assert said() == []
    reserved[:3_000] = 55 * GB
    (line,) = said()
    assert (line.severity, line.metric) == (Severity.INFO, "memory_reserved")


def test_a_resume_in_a_leak_is_taken_in_its_stride() -> None:
    """Steps that go back, and memory with them."""
    allocated = np.concatenate([leak(2_400, 2e7), leak(2_400, 2e7)])
    steps = [*range(2_400), *range(1_500, 3_900)]
    said = feed(4_800, steps, memory_allocated=allocated, memory_total=TOTAL)
    assert said[0].severity is Severity.WARNING


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0, 1e300])
def test_values_that_are_no_memory_are_ignored(bad: float) -> None:
    """They neither alarm nor hide a leak."""
    allocated = leak(3_000, 2e7)
    allocated[::100] = bad
    total = np.full(3_000, TOTAL)
    total[::70] = bad
    first = feed(3_000, memory_allocated=allocated, memory_total=total, rss=allocated)[0]
    assert first.detected_step >= AT
    assert abs(first.onset_step - AT) <= 64


@pytest.mark.parametrize("wrong", [{"block": 2}, {"horizon": 0}, {"full": 1.5}, {"pieces": 0.5}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        MemoryGrowthConfig(**wrong)  # type: ignore[arg-type]
