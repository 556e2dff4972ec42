"""What the agent keeps of a training process."""

from __future__ import annotations

import numpy as np

from lossguard.agent.ranks import Rank
from lossguard.probes import wire
from tests.support.probe import hello_of


def layout(number: int, *names: str) -> wire.Layout:
    """The names of one layout."""
    return wire.Layout(run="run-a", rank=0, layout=number, names=list(names))


def step(number: int) -> wire.Step:
    """A step in that layout."""
    return wire.Step(
        run="run-a", rank=0, step=1, applied=1, layout=number, sequence=1, time_s=0.0
    )  # fmt: skip


def test_a_run_alternates_between_its_layouts() -> None:
    """Each step is read in its own, however often they change; neither has to come again."""
    rank = Rank(b"x", hello_of(), 0.0)
    rank.lay_out(layout(0, "loss"))
    rank.lay_out(layout(1, "loss", "weight_norm/a"))
    for _ in range(3):
        plain = rank.placements[0].place(step(0), np.array([2.0], "<f4").tobytes())
        sampled = rank.placements[1].place(step(1), np.array([2.0, 3.0], "<f4").tobytes())
        assert (dict(plain.values), dict(plain.families)) == ({"loss": 2.0}, {})
        assert sampled.families["weight_norm"].values.tolist() == [3.0]


def test_only_the_newest_layouts_are_kept() -> None:
    """A probe that makes new names without end does not fill the agent; the last two stay."""
    rank = Rank(b"x", hello_of(), 0.0)
    for number in range(1000):
        rank.lay_out(layout(number, "loss"))
        rank.lay_out(layout(number, "loss"))
    assert list(rank.placements) == [996, 997, 998, 999]
