"""GradSpike: ten times the median and beyond its own tail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from lossguard.detectors import Finding, GradSpike, GradSpikeConfig, Observation, Severity

SKIP_GRAD_NORM = 2.0
AT = 500
BLOOM = [4.0, 10.5, 66.0, 600.0, 4000.0]
"""The gradient norm before BLOOM's spike, in units of the level."""

Array = npt.NDArray[np.float64]


def norms(num_steps: int = 1_000, seed: int = 0, sigma: float = 0.2) -> Array:
    """Healthy gradient norms: log-normal, shrinking from 3 to 0.3."""
    random = np.random.default_rng(seed)
    trend = 0.3 + 2.7 / (1.0 + np.arange(num_steps) / 50.0)
    return np.asarray(trend * np.exp(sigma * random.standard_normal(num_steps)))


def feed(
    grad_norms: Array,
    loss: Array | None = None,
    skipped: range = range(0),
    detector: GradSpike | None = None,
) -> list[Finding]:
    """The findings on one norm a step."""
    detector = detector or GradSpike()
    said = []
    for step, norm in enumerate(grad_norms):
        values = {"grad_norm": float(norm)}
        values["skipped"] = SKIP_GRAD_NORM if step in skipped else 0.0
        if loss is not None:
            values["loss"] = float(loss[step])
        said.append(detector.update(Observation(step, values)))
    return [finding for finding in said if finding is not None]


def criticals(said: Sequence[Finding]) -> list[Finding]:
    """The critical ones that do not end an episode."""
    return [f for f in said if f.severity is Severity.CRITICAL and f.end_step is None]


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_run_is_silent(seed: int) -> None:
    """The healthy twin, warm-up included."""
    assert feed(norms(seed=seed)) == []


def test_wild_gradients_are_silent_where_they_are_usual() -> None:
    """A run whose norms jump by 20 times every so often widens its own bound."""
    assert feed(norms(4_000, sigma=0.9)) == []


@pytest.mark.parametrize("times", [12.0, 48.0, 1000.0])
def test_one_giant_gradient_skipped_is_a_warning_that_resolves(times: float) -> None:
    """A single hit warns and is over five normal steps later."""
    grad = norms()
    grad[AT] = times * np.median(grad[AT - 64 : AT])
    loss = np.full(len(grad), 3.0)
    loss[AT] = 6.0
    first, last = feed(grad, loss, skipped=range(AT, AT + 1))
    assert (first.severity, first.onset_step) == (Severity.WARNING, AT)
    assert (last.severity, last.end_step, last.detected_step) == (Severity.WARNING, AT, AT + 5)


def test_the_gradient_leads_in_a_spike_of_blooms_shape() -> None:
    """Critical at the second hit, before the loss has moved."""
    grad = norms()
    grad[AT : AT + 5] *= BLOOM
    (critical,) = criticals(feed(grad))
    assert critical.onset_step in (AT + 1, AT + 2)
    assert critical.detected_step <= AT + 3


def test_an_applied_absurd_gradient_is_critical_once_the_loss_agrees() -> None:
    """One hit of 500 times, applied: critical when the next loss is up, else a warning."""
    grad = norms()
    grad[AT] *= 500.0
    healthy = np.full(len(grad), 3.0) + 0.02 * np.random.default_rng(1).standard_normal(len(grad))
    hurt = healthy.copy()
    hurt[AT + 1 :] *= 2.0
    assert criticals(feed(grad, healthy)) == []
    (critical,) = criticals(feed(grad, hurt))
    assert (critical.onset_step, critical.detected_step) == (AT, AT + 1)


def test_a_lasting_change_of_scale_becomes_the_level() -> None:
    """Norms that stay 30 times up end their episode after 32 steps, and the next hit is found."""
    grad = norms(sigma=0.1)
    grad[AT:] *= 30.0
    grad[AT + 200] *= 30.0
    said = feed(grad)
    ends = [f for f in said if f.end_step is not None]
    assert ends[0].detected_step == AT + 31
    assert said[-2].onset_step == AT + 200


def test_zero_gradients_are_ignored() -> None:
    """Frozen steps neither alarm nor enter the level."""
    grad = norms()
    grad[300:400] = 0.0
    assert feed(grad) == []


def test_a_hard_bound_holds_from_the_first_step() -> None:
    """What the user has set needs no history."""
    detector = GradSpike(GradSpikeConfig(hard_bound=5.0))
    assert detector.bounds() == {"grad_norm": 5.0}
    finding = detector.update(Observation(0, {"grad_norm": 6.0}))
    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_bounds_are_ten_medians_in_a_tame_run() -> None:
    """The reflex bound follows the run once it is out of its warm-up."""
    detector = GradSpike()
    grad = norms(2_000)
    feed(grad[:19], detector=detector)
    assert detector.bounds() == {}
    feed(grad[19:], detector=detector)
    assert 10.0 <= detector.bounds()["grad_norm"] / np.median(grad[-64:]) < 11.0


def test_a_log_of_thirty_epochs_is_enough() -> None:
    """Ten times the median is found, more widely, after 20 points."""
    grad = norms(30)
    assert feed(grad) == []
    grad[25] *= 60.0
    assert feed(grad)[0].onset_step == 25


@pytest.mark.parametrize(
    "wrong",
    [{"multiple": 1.0}, {"tail_probability": 0.5}, {"hard_bound": -1.0}, {"loss_agrees": 0.9}],
)
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        GradSpikeConfig(**wrong)  # type: ignore[arg-type]


def test_a_hard_bound_is_named_as_such() -> None:
    """A norm that is usual, and above the bound that was set, is not called unusual."""
    detector = GradSpike(GradSpikeConfig(hard_bound=5.0))
    for step in range(100):
        detector.update(Observation(step, {"grad_norm": 4.0}))
    finding = detector.update(Observation(100, {"grad_norm": 6.0}))
    assert finding is not None
    assert finding.message == "the gradient norm is 6, above the bound of 5 that was set"
    assert detector.hard_bounds() == {"grad_norm": 5.0}
