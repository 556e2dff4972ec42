"""Ranks that were equal have to stay so: the one that does not is named, at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lossguard.detectors import Family, Finding, Observation, RankDesync, RankDesyncConfig, Severity


def samples(*rows: Sequence[float | None], lag: int = 0) -> list[Observation]:
    """One every 16 steps; None is missing."""
    made = []
    for i, row in enumerate(rows, start=1):
        missing = np.array([value is None for value in row])
        values = np.array([0.0 if value is None else value for value in row], dtype=np.float32)
        names = tuple(str(rank) for rank in range(len(row)))
        family = Family(names, values, missing)
        made.append(
            Observation(16 * i + lag, {"rank_lag": lag}, families={"rank_checksum": family})
        )
    return made


def said(observations: Sequence[Observation]) -> list[Finding]:
    """All findings."""
    detector = RankDesync()
    return [f for f in map(detector.update, observations) if f is not None]


def equal(count: int, ranks: int = 4) -> list[list[float | None]]:
    """So many samples in which all are the same, another number each time."""
    return [[1000.0 + i] * ranks for i in range(count)]


def test_the_rank_that_differs_from_the_others_is_named_and_dated() -> None:
    """Once, at the first sample, from the last at which all were equal."""
    rows: list[list[float | None]] = [*equal(5), [7.0, 7.0, 8.0, 7.0], [9.0, 9.0, 11.0, 9.0]]
    (found,) = said(samples(*rows))
    assert (found.where, found.severity) == ("rank 2", Severity.CRITICAL)
    assert found.message == "the weights of rank 2 differ from those of 3 other ranks"
    assert (found.onset_step, found.detected_step) == (80, 96)


def test_of_two_both_are_named() -> None:
    """Which is right nobody can know."""
    rows: list[list[float | None]] = [*equal(3, 2), [7.0, 8.0]]
    (found,) = said(samples(*rows))
    assert found.where == "ranks 0, 1"
    assert found.message.endswith("which are right is unknown")


def test_it_is_over_when_they_are_equal_again() -> None:
    """A rollback, or a broadcast: after two samples."""
    begun, ended = said(samples(*equal(3), [7.0, 7.0, 8.0, 7.0], *equal(3)))
    assert begun.end_step is None
    assert (ended.detected_step, ended.end_step) == (96, 64)


def test_a_step_that_comes_late_is_dated_when_it_was() -> None:
    """A rollback has to go back to before it."""
    (found,) = said(samples(*equal(5), [7.0, 7.0, 8.0, 7.0], lag=3))
    assert (found.onset_step, found.detected_step) == (80, 99)


def test_replicas_are_compared_with_their_own_kind() -> None:
    """Two halves of a model, each on two ranks of four; of one half a replica goes astray."""
    rows: list[list[float | None]] = [[i, 50.0 + i, i, 50.0 + i, i] for i in range(4)]
    assert said(samples(*rows)) == []
    (found,) = said(samples(*rows, [5.0, 55.0, 5.0, 55.0, 99.0]))
    assert (found.where, found.message[-13:]) == ("rank 4", "2 other ranks")


def test_ranks_that_were_never_equal_are_let_be() -> None:
    """Stages of a pipeline; weights that are averaged now and then."""
    assert said(samples(*[[i, 100.0 + i, 200.0 + i] for i in range(9)])) == []
    now_and_then = [[1.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 6.0], [7.0, 8.0]]
    assert said(samples(*now_and_then, *now_and_then)) == []


def test_a_rank_that_says_nothing_is_no_reason() -> None:
    """Before replicas are known and after."""
    rows: list[list[float | None]] = [[1.0, 1.0, None], *equal(3, 3), [5.0, None, 5.0], [6.0] * 3]
    assert said(samples(*rows)) == []
    (found,) = said(samples(*rows, [7.0, 9.0, 7.0]))
    assert found.where == "rank 1"


def test_a_thousand_ranks_make_a_small_state() -> None:
    """However many samples there were."""
    detector = RankDesync()
    for observation in samples(*equal(300, 1000)):
        detector.update(observation)
    assert len(repr(detector.state())) < 200_000


def test_absurd_settings_are_refused() -> None:
    """One sample proves nothing: all begin equal."""
    with pytest.raises(ValueError, match="agreed"):
        RankDesyncConfig(agreed=1)
