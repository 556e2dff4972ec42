"""What divides good losses from bad ones after a rollback."""

from __future__ import annotations

import math

import pytest

from lossguard.agent.divide import Divide


def known(good: list[float], bad: list[float]) -> Divide:
    """After a rollback at the step past all of these, for eight steps."""
    divide = Divide()
    for step, loss in enumerate([*good, *bad]):
        divide.note(step, loss)
    divide.draw(len(good), len(good) + len(bad), 8)
    return divide


def test_it_lies_half_way_by_ratio_and_for_some_steps() -> None:
    divide = known([0.1] * 20, [10.0] * 4)
    assert divide.bound(24, waits=False) == pytest.approx(1.0)
    assert divide.bound(32, waits=False) == pytest.approx(1.0)
    assert divide.bound(33, waits=False) is None


def test_it_stays_while_bad_data_is_waited_out() -> None:
    divide = known([0.1] * 20, [10.0] * 4)
    assert divide.bound(80, waits=True) == pytest.approx(1.0)


def test_before_a_rollback_nothing_is_divided() -> None:
    divide = Divide()
    for step in range(100):
        divide.note(step, 1.0)
    assert divide.bound(100, waits=True) is None


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ([0.1] * 20, []),
        ([0.1] * 3, [10.0] * 4),
        ([0.1] * 19 + [12.0], [10.0] * 4),
        ([-1.0] * 20, [10.0] * 4),
        ([0.0] * 20, [10.0] * 4),
    ],
    ids=["nothing bad", "too little good", "overlapping", "negative", "zero"],
)
def test_where_it_cannot_be_told_there_is_no_bound(good: list[float], bad: list[float]) -> None:
    assert known(good, bad).bound(len(good) + len(bad) + 1, waits=True) is None


def test_what_is_not_finite_divides_nothing() -> None:
    divide = known([0.1] * 20, [math.nan, math.inf, 10.0])
    assert divide.bound(24, waits=False) == pytest.approx(1.0)
