"""The rank that the others wait for is named, and what it does; noise and short work are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lossguard.detectors import Family, Finding, Observation, Straggler, StragglerConfig

Change = Callable[[int, npt.NDArray[Any], npt.NDArray[Any]], None]


def nothing(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
    """All are alike."""


def run(
    change: Change = nothing,
    *,
    ranks: int = 4,
    steps: int = 400,
    unit: float = 1.0,
    noise: float = 0.1,
    seed: int = 1,
) -> list[Observation]:
    """Steps of half a second, of which 0.2 s are each rank's own and 0.01 s a wait for data."""
    random = np.random.default_rng(seed)
    names = tuple(str(rank) for rank in range(ranks))
    made = []
    for step in range(steps):
        own = 0.2 * unit * np.exp(noise * random.standard_normal(ranks))
        data = 0.01 * unit * np.exp(0.5 * random.standard_normal(ranks))
        change(step, own, data)
        rows = {
            "rank_own_time": own,
            "rank_data_time": data,
            "rank_step_time": np.full(ranks, np.nanmax(own) + 0.3 * unit),
        }
        families = {
            name: Family(names, row.astype(np.float32), np.isnan(row)) for name, row in rows.items()
        }
        made.append(Observation(step, {}, families=families))
    return made


def said(observations: list[Observation], **settings: float) -> list[Finding]:
    """All findings."""
    detector = Straggler(StragglerConfig(**settings))  # type: ignore[arg-type]
    return [f for f in map(detector.update, observations) if f is not None]


def slow(*which: int, factor: float = 2.0, begin: int = 100, end: int = 250) -> Change:
    """These compute at a fraction of the speed for a while."""

    def change(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
        own[list(which)] *= factor if begin <= step < end else 1.0

    return change


@pytest.mark.parametrize("ranks", [2, 3, 8, 1000])
def test_a_rank_at_half_speed_is_named_and_its_recovery_told(ranks: int) -> None:
    """Since when, by how much, and that it computes."""
    begun, ended = said(run(slow(1), ranks=ranks))
    assert (begun.where, begun.severity) == ("rank 1", "warning")
    assert begun.metric == "rank_own_time"
    assert begun.message.endswith("computing")
    assert 96 <= begun.onset_step <= 103
    assert begun.detected_step <= 100 + 4 * 32
    assert begun.evidence["share"] == pytest.approx(0.2 / 0.7, abs=0.06)
    assert ended.end_step is not None
    assert ended.detected_step <= 250 + 3 * 32


def test_a_rank_that_waits_for_its_data_is_told_apart() -> None:
    """Its own time holds the wait."""

    def change(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
        own[2] += 0.2
        data[2] += 0.2

    (found,) = said(run(change))
    assert (found.where, found.metric) == ("rank 2", "rank_data_time")
    assert found.message.endswith("waiting for its data")


def test_a_wait_for_data_is_enough_where_hosts_wait_for_their_devices() -> None:
    """There the own times of all are alike, or are not known."""

    def change(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
        data[3] += 0.2

    observations = run(change)
    assert [f.where for f in said(observations)] == ["rank 3"]
    for observation in observations:
        del observation.families["rank_own_time"]  # type: ignore[attr-defined]
    assert [f.where for f in said(observations)] == ["rank 3"]


def test_of_several_slow_ranks_the_slowest_is_named_and_the_others_counted() -> None:
    """A host of eight among 64."""

    def change(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
        own[8:16] *= 2.0
        own[11] *= 1.3

    (found,) = said(run(change, ranks=64))
    assert found.where == "rank 11"
    assert found.message.endswith("7 more are slow")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ranks", [2, 4, 64])
def test_equal_ranks_with_noise_are_let_be(ranks: int, seed: int) -> None:
    """Of a fifth, in every step on every rank."""
    assert said(run(ranks=ranks, noise=0.2, seed=seed, steps=2_000)) == []


def test_short_work_of_one_rank_is_let_be() -> None:
    """An evaluation, a save: a few steps, or every tenth."""

    def change(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
        own[0] += 2.0 * (100 <= step < 110 or step % 10 == 0)

    assert said(run(change)) == []


def test_long_samples_that_fall_on_another_rank_each_time_are_let_be() -> None:
    """Every step has a slowest."""

    def change(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
        own[step % 4] *= 3.0

    assert said(run(change)) == []


def test_milliseconds_are_let_be() -> None:
    """The same ratio, in steps of 10 ms."""
    assert said(run(slow(1), unit=0.02)) == []
    assert said(run(slow(1), unit=0.02), least_s=0.0)


def test_a_rank_that_is_only_a_little_slower_is_let_be() -> None:
    """By a tenth of its own time: less than a tenth of the step."""
    assert said(run(slow(1, factor=1.1, end=400))) == []


def test_a_rank_of_which_nothing_is_known_hides_no_other() -> None:
    """It is missing."""

    def change(step: int, own: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
        own[1] *= 2.0
        own[3] = data[3] = np.nan

    assert [f.where for f in said(run(change))] == ["rank 1"]


@pytest.mark.parametrize(
    "bad", [{"ratio": 1.0}, {"share": 0.0}, {"blocks": 0}, {"block": 4}, {"least_s": -1.0}]
)
def test_absurd_settings_are_refused(bad: dict[str, float]) -> None:
    """With a word that names them."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        StragglerConfig(**bad)  # type: ignore[arg-type]
