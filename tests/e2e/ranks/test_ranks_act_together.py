"""Every rank skips the same step, and obeys at the same step boundary, or none does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from lossguard.agent import feed
from lossguard.home import find_home
from tests.e2e.ranks.acting import (
    BAD,
    DEEPER,
    LAG,
    OBEYED,
    RESTORED,
    STEPS,
    Ended,
    by_hand,
)
from tests.e2e.ranks.jobs import environment, run_job
from tests.support.agents import AgentProcess, answering

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

RUN = "ranks"
ON_TWO: tuple[str, ...] = (
    "bare", "clean", "clean-observed", "nan", "nan-unfused", "left-out", "unfused-left-out",
    "spike",
    "late", "late-by-hand", "differ", "differ-by-hand", "cross", "by-agent", "one-observes",
    "observed-nan", "observed-order", "sharded-bare", "sharded-clean", "sharded-nan",
    "sharded-nan-by-hand", "sharded-spike", "sharded-left-out", "alone-bare", "alone", "killed",
)  # fmt: skip
if LAG:  # torch's watchdog ends a rank whose peer has died on it, in minutes
    ON_TWO = tuple(case for case in ON_TWO if case != "killed")
ON_FOUR = ("sharded-nan", "sharded-nan-by-hand")
KILLED = -9
OF_THE_VOTE = ("together.py", "vote_group.py", "arbiter.py")


class Trainings(NamedTuple):
    """What came of all of them."""

    out: Path
    ordered: feed.CommandResult

    def ended(self, case: str, ranks: int = 2) -> list[Ended]:
        """By rank."""
        paths = [self.out / str(ranks) / f"{case}.{rank}" for rank in range(ranks)]
        return [msgspec.msgpack.decode(p.read_bytes(), type=Ended) for p in paths if p.exists()]


def train(out: Path, home: Path) -> None:
    """All cases; one process starts those of the ranks."""
    run_job(
        *("-m", "tests.e2e.ranks.acting", str(out)),
        *(f"2:{','.join(ON_TWO)}", f"4:{','.join(ON_FOUR)}"),
        env=environment(home, LOSSGUARD_RUN=RUN),
        timeout_s=280,
    )


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    """All of them, once."""
    root = Path(tempfile.mkdtemp(prefix="lg-", dir="/tmp"))
    patch = pytest.MonkeyPatch()
    patch.setenv("LOSSGUARD_HOME", str(root / "home"))
    try:
        with answering(AgentProcess(find_home().create())) as agent:
            train(root, root / "home")
            ordered = agent.ask(by_hand(RUN))
            assert isinstance(ordered, feed.CommandResult)
            yield Trainings(root, ordered)
    finally:
        patch.undo()
        shutil.rmtree(root, ignore_errors=True)


def replicas_agree(ended: list[Ended]) -> bool:
    """The weights and moments of DDP's ranks, bit for bit, after every step."""
    return all(one.weights == ended[0].weights for one in ended) and len(ended) == 2


@pytest.mark.parametrize(
    ("guarded", "bare"),
    [("clean", "bare"), ("clean-observed", "bare"), ("sharded-clean", "sharded-bare")],
)
def test_a_healthy_run_is_bitwise_the_bare_one(
    trainings: Trainings, guarded: str, bare: str
) -> None:
    """Losses, weights and moments after every step; and every step was voted on, or none."""
    for ours, theirs in zip(trainings.ended(guarded), trainings.ended(bare), strict=True):
        assert (ours.losses, ours.weights) == (theirs.losses, theirs.weights)
        assert (ours.skipped, ours.answers, ours.log) == (0, [], [])
        assert ours.votes == (0 if guarded == "clean-observed" else STEPS)


@pytest.mark.parametrize(
    ("case", "reference"),
    [
        ("nan", "left-out"),
        ("nan-unfused", "unfused-left-out"),
        ("spike", "left-out"),
        ("sharded-spike", "sharded-left-out"),
    ],
)
def test_what_one_rank_objects_to_all_skip(trainings: Trainings, case: str, reference: str) -> None:
    """As if that batch had never been: the same weights, and the same losses after it.

    Of a gradient that is cut over ranks the norm of the whole is judged.
    """
    for ours, theirs in zip(trainings.ended(case), trainings.ended(reference), strict=True):
        assert ours.skipped == 1
        assert ours.weights[: BAD - 1] == theirs.weights[: BAD - 1]
        assert ours.weights[BAD - 1] == ours.weights[BAD - 2]
        assert ours.weights[BAD:] == theirs.weights[BAD - 1 :]
        assert ours.losses[BAD:] == theirs.losses[BAD - 1 :]
    if not case.startswith("sharded"):
        assert replicas_agree(trainings.ended(case))


@pytest.mark.parametrize(
    ("case", "restored"), [("late", RESTORED), ("differ", DEEPER), ("by-agent", RESTORED)]
)
def test_all_ranks_roll_back_at_the_same_step_to_the_same_step(
    trainings: Trainings, case: str, restored: int
) -> None:
    """Also where one hears of it late, or has lost the snapshot that the other would take."""
    ended = trainings.ended(case)
    assert replicas_agree(ended)
    by_hand = trainings.ended("differ-by-hand" if case == "differ" else "late-by-hand")
    for ours, theirs in zip(ended, by_hand, strict=True):
        assert [a["status"] for a in ours.answers] == ["done"]
        assert [(a["step"], a["restored_step"]) for a in ours.answers] == [(OBEYED, restored)]
        assert ours.losses == theirs.losses
        assert ours.weights[OBEYED:] == theirs.weights[OBEYED:]


def test_an_order_is_answered_once_for_all_ranks(trainings: Trainings) -> None:
    """By the agent, when all have carried it out."""
    assert trainings.ordered.status == "done"
    assert trainings.ordered.step == OBEYED
    assert f"restored_step {RESTORED}" in trainings.ordered.result


def test_orders_that_cross_on_the_way_are_obeyed_in_one_order(trainings: Trainings) -> None:
    """In that of their numbers, one at a step."""
    ended = trainings.ended("cross")
    assert replicas_agree(ended)
    assert ended[0].answers == ended[1].answers
    assert [(a["status"], a["step"]) for a in ended[0].answers] == [
        ("done", BAD - 1 + LAG),
        ("done", BAD + LAG),
    ]
    assert [one.skipped for one in ended] == [1, 1]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_sharded_model_skips_and_rolls_back(trainings: Trainings, ranks: int) -> None:
    """The shards of every rank are those of the same thing done by hand."""
    ours = trainings.ended("sharded-nan", ranks)
    theirs = trainings.ended("sharded-nan-by-hand", ranks)
    assert len(ours) == len(theirs) == ranks
    for mine, by_itself in zip(ours, theirs, strict=True):
        assert mine.skipped == 1
        assert [(a["status"], a["restored_step"]) for a in mine.answers] == [("done", RESTORED)]
        assert mine.weights[OBEYED:] == by_itself.weights[OBEYED - 1 :]
        assert mine.losses[BAD:] == by_itself.losses[BAD - 1 :]


def test_where_one_rank_only_observes_all_do(trainings: Trainings) -> None:
    """The NaN does its work, on all; the others hear of it at once, and say so once."""
    ended = trainings.ended("one-observes")
    assert replicas_agree(ended)
    for ours, theirs in zip(ended, trainings.ended("observed-nan"), strict=True):
        assert (ours.weights, ours.skipped) == (theirs.weights, 0)
    assert [len(one.log) for one in ended] == [1, 1]
    assert "a rank is missing" in ended[0].log[0]


def test_under_observe_orders_are_refused_on_every_rank(trainings: Trainings) -> None:
    """For nobody could know whether the others obey."""
    for ours, bare in zip(trainings.ended("observed-order"), trainings.ended("bare"), strict=True):
        assert [a["status"] for a in ours.answers] == ["failed"]
        assert ours.weights == bare.weights


def test_a_rank_that_steps_no_more_ends_the_vote_and_not_the_training(
    trainings: Trainings,
) -> None:
    """It lives on, so nothing tells the other; which waits once, and then goes on by itself."""
    ended, bare = trainings.ended("alone"), trainings.ended("alone-bare")
    assert [one.weights for one in ended] == [one.weights for one in bare]
    assert [len(one.losses) for one in ended] == [STEPS, BAD - 1]
    assert [len(one.log) for one in ended] == [1, 0]
    assert BAD <= ended[0].votes <= BAD + LAG
    assert ended[1].votes == BAD - 1


def test_a_rank_that_dies_between_vote_and_rollback_ends_the_run_as_it_would_bare(
    trainings: Trainings,
) -> None:
    """By the process group's own error, out of the script's own collective, a step later."""
    if LAG:
        pytest.skip("torch's watchdog ends it, in its own time")
    assert msgspec.msgpack.decode((trainings.out / "2" / "codes").read_bytes()) == [0, KILLED]
    (ended,) = trainings.ended("killed")
    assert len(ended.losses) == BAD + 1
    assert ended.error
    assert not [name for name in ended.raised_in if name.endswith(OF_THE_VOTE)]
