"""What ranks say in a vote, and what it adds up to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossguard.probes.ballot import Ballot, Wish
from lossguard.probes.wire import SKIP_GRAD_NORM, SKIP_LOSS, SKIP_NONFINITE, SKIP_SCALER
from tests.unit.probes.votes import CPU, code

WISH = Wish(where="r 7")


def of_two(
    first: float,
    second: float,
    squares: tuple[float | None, float | None] = (None, None),
    bounds: tuple[float | None, float | None] = (None, None),
) -> int:
    """The verdict of two ranks."""
    ballot = Ballot(2, CPU)
    sums = torch.zeros(())
    for verdict, square, bound in zip((first, second), squares, bounds, strict=True):
        given = None if square is None else torch.tensor(square, dtype=torch.float64)
        sums = sums + ballot.votes(code(verdict), given, bound, WISH)
    return int(ballot.code(sums))


def test_any_objection_stands_and_none_is_counted_twice() -> None:
    """A sum of codes would make two of one kind another kind."""
    assert of_two(0, 0) == 0
    assert of_two(SKIP_NONFINITE, SKIP_NONFINITE) == SKIP_NONFINITE
    assert of_two(SKIP_NONFINITE, SKIP_LOSS) == SKIP_NONFINITE | SKIP_LOSS
    assert of_two(SKIP_GRAD_NORM | SKIP_LOSS, SKIP_LOSS) == SKIP_GRAD_NORM | SKIP_LOSS


def test_an_overflow_of_any_scaler_is_no_trouble() -> None:
    """It is GradScaler's normal life."""
    assert of_two(SKIP_SCALER, SKIP_NONFINITE) == SKIP_SCALER


def test_of_a_cut_gradient_the_norm_of_the_whole_is_judged() -> None:
    """3 and 4 are 5. The bound is the mean of theirs; where one has none, there is none."""
    assert of_two(0, 0, (9.0, 16.0), (4.5, 4.5)) == SKIP_GRAD_NORM
    assert of_two(0, 0, (9.0, 16.0), (5.5, 5.5)) == 0
    assert of_two(0, 0, (9.0, 16.0), (4.5, 5.7)) == 0
    assert of_two(0, 0, (9.0, 16.0), (4.5, None)) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_hides_nothing(bad: float) -> None:
    """It has its own bit; the rest of the sums stay what they are."""
    assert of_two(SKIP_NONFINITE, 0, (bad, 16.0), (3.0, 3.0)) == SKIP_NONFINITE | SKIP_GRAD_NORM
    assert of_two(SKIP_NONFINITE, 0, (bad, 4.0), (3.0, 3.0)) == SKIP_NONFINITE


def sums(mine: Wish, theirs: Wish) -> tuple[Ballot, Tensor]:
    """Of the two."""
    ballot = Ballot(2, CPU)
    return ballot, ballot.votes(None, None, None, mine) + ballot.votes(None, None, None, theirs)


def test_a_command_is_agreed_on_when_all_hold_the_same() -> None:
    """At the same step."""
    mine = Wish("a", False, "r 7")
    for theirs, agreed in (
        (mine, (True, True)),
        (Wish("b", False, "r 7"), (False, True)),
        (Wish("", False, "r 7"), (False, True)),
        (Wish("a", False, "r 8"), (False, False)),
    ):
        ballot, both = sums(mine, theirs)
        found = ballot.agreed(both, mine)
        assert (found.command, found.where) == agreed
    ballot, both = sums(WISH, WISH)
    assert not ballot.agreed(both, WISH).command


def test_a_snapshot_is_taken_when_all_want_one() -> None:
    """And none of them alone."""
    mine = Wish("", True, "r 7")
    for theirs, agreed in ((mine, True), (WISH, False)):
        ballot, both = sums(mine, theirs)
        assert ballot.agreed(both, mine).due is agreed
