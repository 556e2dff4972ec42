"""Whether a loss makes progress, and whether something lasts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lossguard.detectors.lasting import Lasting
from lossguard.detectors.progress import LossProgress


def progress(loss: Callable[[int], float], noise: float, num_steps: int = 400) -> LossProgress:
    """After that many losses."""
    random = np.random.default_rng(3)
    watched = LossProgress()
    for step in range(num_steps):
        watched.push(loss(step) + noise * float(random.standard_normal()))
    return watched


@pytest.mark.parametrize(
    ("loss", "noise"),
    [(lambda t: 2.0 - 1e-3 * t, 0.02), (lambda t: -1.0 - 1e-3 * t, 0.02), (lambda t: 0.98**t, 0.0)],
)
def test_a_loss_that_falls_is_not_stalled(loss: Callable[[int], float], noise: float) -> None:
    """Positive, negative or close to zero."""
    assert not progress(loss, noise).stalled


@pytest.mark.parametrize(
    ("loss", "noise"),
    [(lambda t: 2.0, 0.3), (lambda t: 2.0 + 1e-3 * t, 0.02), (lambda t: -1.0, 0.0)],
)
def test_a_loss_that_stands_still_or_rises_is_stalled(
    loss: Callable[[int], float], noise: float
) -> None:
    """After 80 losses, not before."""
    assert progress(loss, noise).stalled
    assert not progress(loss, noise, num_steps=79).stalled


def test_what_is_not_finite_is_no_loss() -> None:
    """Nor is what was not measured."""
    watched = LossProgress()
    for value in (None, float("nan"), float("inf")):
        watched.push(value)
    assert watched.state() == LossProgress().state()


def test_something_lasts_when_nearly_all_looks_found_it() -> None:
    """Begins with the 14th of 16 looks, is dated to the first, ends when few are left."""
    lasting = Lasting(16)
    for step in range(0, 272, 8):
        for passed in range(step, step + 8):
            lasting.pass_by(passed)
        lasting.push(step + 7, step >= 160)
        assert lasting.active == (step >= 264)
    assert lasting.active
    assert lasting.onset() == 160
    for num_calm in range(1, 16):
        lasting.push(280 + 8 * num_calm, False)
        assert lasting.active == (num_calm <= 12)


def test_something_that_flickers_does_not_last() -> None:
    """Half of the looks."""
    lasting = Lasting(16)
    for step in range(200):
        lasting.push(step, step % 2 == 0)
        assert not lasting.active
