"""LossSpike: one hit warns, persistence acts, a shift becomes normal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from lossguard.detectors import Finding, LossSpike, LossSpikeConfig, Observation, Severity

SKIP_LOSS = 4.0
AT = 600
BLOOM = [1.18, 1.02, 1.07, 2.32, 1.59, 1.46, 1.28, 1.1]
"""The loss of BLOOM's spike at step 31216, in units of the level."""

Array = npt.NDArray[np.float64]


def decaying(num_steps: int = 1_000, seed: int = 0, noise: float = 0.02) -> Array:
    """A healthy loss: a power law in Student-t noise."""
    random = np.random.default_rng(seed)
    trend = 2.5 + 8.0 * (1.0 + np.arange(num_steps) / 5.0) ** -0.5
    return np.asarray(trend * np.exp(noise * random.standard_t(5, num_steps)))


def feed(
    losses: Sequence[float] | Array,
    skipped: range = range(0),
    detector: LossSpike | None = None,
    lr: Array | None = None,
) -> list[Finding]:
    """The findings on one loss a step, with the updates in ``skipped`` skipped by the guard."""
    detector = detector or LossSpike()
    said = []
    for step, loss in enumerate(losses):
        values = {"loss": float(loss), "skipped": SKIP_LOSS if step in skipped else 0.0}
        if lr is not None:
            values["lr"] = float(lr[step])
        said.append(detector.update(Observation(step, values)))
    return [finding for finding in said if finding is not None]


def criticals(said: Sequence[Finding]) -> list[Finding]:
    """The critical ones that do not end an episode."""
    return [f for f in said if f.severity is Severity.CRITICAL and f.end_step is None]


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_loss_is_silent(seed: int) -> None:
    """The healthy twin of all below: at most a batch of its own kind is noted."""
    said = feed(decaying(seed=seed))
    assert [f for f in said if f.severity is not Severity.INFO] == []
    assert len({f.onset_step for f in said}) <= 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("times", "severity"),
    [(1.35, Severity.INFO), (2.0, Severity.INFO), (3.5, Severity.WARNING), (1e3, Severity.WARNING)],
)
def test_one_bad_batch_is_noted_and_resolves(seed: int, times: float, severity: Severity) -> None:
    """A single spike is worth a line, more than three times a look; five normal steps end it."""
    loss = decaying(seed=seed)
    loss[AT] *= times
    first, last = (f for f in feed(loss, skipped=range(AT, AT + 1)) if f.onset_step >= AT)
    assert (first.severity, first.onset_step, first.detected_step) == (severity, AT, AT)
    assert (last.severity, last.onset_step, last.end_step) == (severity, AT, AT)
    assert last.detected_step == AT + 5


@pytest.mark.parametrize("seed", range(4))
def test_a_loss_that_comes_down_slowly_after_a_hit_is_worth_a_look(seed: int) -> None:
    """The batch after a batch of its own kind is normal; after hurt weights it is not."""
    loss = decaying(seed=seed)
    loss[AT] *= 1.5
    assert all(f.severity is Severity.INFO for f in feed(loss) if f.onset_step >= AT)
    loss[AT + 1 : AT + 3] *= [1.17, 1.05]
    said = [f for f in feed(loss) if f.onset_step >= AT]
    assert said[1].severity is Severity.WARNING
    assert said[1].detected_step == AT + 1


@pytest.mark.parametrize(("norm", "severity"), [(1.1, Severity.INFO), (6.0, Severity.WARNING)])
def test_a_hit_with_a_large_gradient_is_worth_a_look(norm: float, severity: Severity) -> None:
    """The gradient norm of the same step tells an outlier from a blow."""
    loss = decaying()
    loss[AT] *= 1.5
    detector, said = LossSpike(), []
    for step, value in enumerate(loss):
        values = {"loss": float(value), "grad_norm": norm if step == AT else 1.0}
        finding = detector.update(Observation(step, values))
        if finding is not None and finding.onset_step >= AT:
            said.append(finding)
    assert said[0].severity is severity


@pytest.mark.parametrize("seed", range(4))
def test_a_spike_of_blooms_shape_becomes_critical(seed: int) -> None:
    """The second large loss in a row escalates, dated to the first anomalous one, and it ends."""
    loss = decaying(seed=seed)
    loss[AT : AT + len(BLOOM)] *= BLOOM
    said = feed(loss)
    (critical,) = criticals(said)
    assert AT <= critical.onset_step <= AT + 3
    assert critical.detected_step == AT + 4
    assert said[-1].end_step is not None


@pytest.mark.parametrize("seed", range(4))
def test_weights_ruined_in_one_step_are_seen_within_three(seed: int) -> None:
    """The loss stays high although every update is skipped: critical at the third hit."""
    loss = decaying(seed=seed)
    loss[AT:] *= 3.5
    (critical,) = criticals(feed(loss, skipped=range(AT, len(loss))))
    assert (critical.onset_step, critical.detected_step) == (AT, AT + 2)


def test_two_skipped_batches_in_a_row_stay_a_warning() -> None:
    """Skipped updates hurt nothing, so two bad batches may pass by."""
    loss = decaying()
    loss[AT : AT + 2] *= 5.0
    assert criticals(feed(loss, skipped=range(AT, AT + 2))) == []
    assert criticals(feed(loss)) != []


def test_a_small_lasting_shift_becomes_the_level_and_never_acts() -> None:
    """A data switch that costs 15 % is not critical, and no spike on top of it is missed."""
    loss = decaying()
    loss[AT:] *= 1.15
    loss[AT + 50] *= 1.5
    said = feed(loss)
    assert criticals(said) == []
    assert [f for f in said if f.end_step is None][-1].onset_step == AT + 50


def test_a_lasting_doubling_ends_when_it_has_become_normal() -> None:
    """After the new level is learnt, the next spike is found on top of it."""
    loss = decaying()
    loss[AT:] *= 2.0
    loss[AT + 200] *= 1.5
    said = feed(loss)
    assert criticals(said)[0].onset_step == AT
    assert said[1].end_step is None
    assert said[2].end_step is not None
    assert said[3].onset_step == AT + 200


def test_rounded_losses_are_not_noise_free() -> None:
    """A loss rounded until its MAD is zero does not alarm on one unit of rounding."""
    random = np.random.default_rng(3)
    loss = np.round((2.5 + random.normal(0.0, 0.005, 4_000)) * 64.0) / 64.0
    assert feed(loss) == []
    loss[2_000] = 3.5
    assert feed(loss)[0].onset_step == 2_000


def test_a_loss_near_zero_may_multiply() -> None:
    """Overfitted to 0.001, tripling to 0.003 is nothing next to the descent from 2."""
    random = np.random.default_rng(4)
    loss = 0.001 + 2.0 * np.exp(-np.arange(1_500) / 60.0)
    loss *= np.exp(0.05 * random.standard_normal(1_500))
    loss[1_000] *= 3.0
    assert feed(loss) == []
    loss[1_200] = 0.5
    assert [f.onset_step for f in feed(loss)] == [1_200, 1_200]


@pytest.mark.parametrize("offset", [-20.0, -0.5, 0.0])
def test_negative_losses_work(offset: float) -> None:
    """Below and around zero the same rule holds in plain units."""
    random = np.random.default_rng(5)
    loss = offset + 0.3 * random.standard_normal(2_000)
    assert feed(loss) == []
    loss[1_000:1_004] += 12.0
    said = feed(loss)
    assert criticals(said)[0].onset_step == 1_000
    assert said[-1].end_step == 1_003


def test_a_log_of_thirty_epochs_is_enough() -> None:
    """With 30 points in all, a spike is found, and its healthy twin is silent."""
    loss = 2.0 * np.exp(-np.arange(30) / 10.0) + 0.3
    loss *= np.exp(0.01 * np.random.default_rng(6).standard_normal(30))
    assert feed(loss) == []
    loss[20:22] = 2.6
    assert criticals(feed(loss))[0].onset_step == 20


def test_a_warm_restart_of_the_learning_rate_is_no_spike() -> None:
    """The loss jumps with the rate to where it has been before: at most a warning."""
    steps = np.arange(1_200)
    lr = 0.05 * (1.0 + np.cos(np.pi * (steps % 400) / 400.0))
    loss = 0.3 + 2.0 * np.exp(-steps / 100.0) + 4.0 * lr
    loss *= np.exp(0.02 * np.random.default_rng(7).standard_normal(1_200))
    assert criticals(feed(loss, lr=lr)) == []


def test_bounds_wait_for_the_warm_up_and_then_stand_well_above() -> None:
    """No veto for 32 losses; then between 1.5 and 4 times the level, lower than a real spike."""
    detector = LossSpike()
    loss = decaying(400)
    feed(loss[:31], detector=detector)
    assert detector.bounds() == {}
    feed(loss[31:], detector=detector)
    assert 1.5 < detector.bounds()["loss"] / loss[-50:].mean() < 2.2


def flickering(num_steps: int = 300) -> Array:
    """A loss that has come down to 0.1 and varies by half its size."""
    random = np.random.default_rng(8)
    loss = 0.1 + 2.2 * np.exp(-np.arange(num_steps) / 30.0)
    return np.asarray(loss * np.exp(0.5 * random.standard_normal(num_steps)))


def test_a_loss_as_high_as_where_the_run_began_is_vetoed_however_wild_it_is() -> None:
    """Twelve sigmas above 0.1 are hundreds of times 0.1; labels that mean nothing give 8."""
    detector = LossSpike()
    feed(flickering(), detector=detector)
    assert 1.0 < detector.bounds()["loss"] < 4.0


def test_no_loss_of_a_run_that_flickers_near_zero_is_vetoed() -> None:
    """The healthy twin: four times the usual is nothing there."""
    detector = LossSpike()
    for loss in [*flickering(), 0.4]:
        assert loss <= detector.bounds().get("loss", math.inf)
        feed([loss], detector=detector)


def test_where_a_run_has_not_come_far_its_beginning_says_nothing() -> None:
    """As wild, from its first step on: the bound stays twelve sigmas away."""
    detector = LossSpike()
    feed(flickering()[150:], detector=detector)
    assert detector.bounds()["loss"] > 8.0


@pytest.mark.parametrize(
    "wrong",
    [{"window": 2}, {"threshold": 0.0}, {"large_rise": 0.01}, {"veto_ratio": 1.0}, {"readmit": 1}],
)
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LossSpikeConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("skipped", "hits"), [(False, 32), (True, 64)])
def test_losses_whose_updates_are_skipped_become_usual_half_as_fast(
    skipped: bool, hits: int
) -> None:
    """A stretch of bad data passes by meanwhile; a run that has changed for good goes on."""
    loss = decaying()
    loss[AT:] *= 3.0
    steps = range(AT, len(loss)) if skipped else range(0)
    over = [f for f in feed(loss, skipped=steps) if f.end_step is not None and f.onset_step >= AT]
    assert over[0].detected_step == AT + hits - 1
