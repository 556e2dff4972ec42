"""Whether a run goes on: by hellos, words, silences and farewells, without a process."""

from __future__ import annotations

from typing import Literal

import pytest

from lossguard.agent.life import Life
from lossguard.probes import wire


def bye(
    rank: int = 0, reason: Literal["finished", "exception", "stopped"] = "finished"
) -> wire.Bye:
    """A farewell."""
    return wire.Bye(run="run-a", rank=rank, step=9, reason=reason)


@pytest.mark.parametrize(
    ("reason", "end"),
    [("finished", "finished"), ("exception", "failed"), ("stopped", "stopped")],
)
def test_the_first_rank_says_how_it_ends(
    reason: Literal["finished", "exception", "stopped"], end: str
) -> None:
    """Whatever others say after it; and nothing has ended before."""
    life = Life()
    assert life.end is None
    life.part(bye(0, reason), is_last=False)
    life.part(bye(1, "finished"), is_last=True)
    assert life.end == end


def test_another_rank_says_it_only_when_it_is_the_last() -> None:
    life = Life()
    life.part(bye(1), is_last=False)
    assert life.end is None
    life.part(bye(2, "exception"), is_last=True)
    assert life.end == "failed"


def test_a_first_rank_that_comes_back_takes_its_farewell_back() -> None:
    """Another rank's hello does not."""
    life = Life()
    life.part(bye(), is_last=False)
    life.greeted(1)
    assert life.end == "finished"
    life.greeted(0)
    assert life.end is None


def test_it_falls_silent_once_and_a_word_ends_that() -> None:
    life = Life()
    assert [life.fall_silent(), life.fall_silent(), life.state] == [True, False, "silent"]
    life.spoke()
    assert (life.state, life.is_over) == ("running", False)


@pytest.mark.parametrize(("state", "after"), [("died", "running"), ("finished", "finished")])
def test_who_was_believed_dead_may_speak_again_and_who_said_goodbye_may_not(
    state: str, after: str
) -> None:
    life = Life()
    life.restore(state)
    assert life.is_over
    life.spoke()
    assert life.state == after


@pytest.mark.parametrize(
    ("kept", "now"), [("running", "silent"), ("silent", "silent"), ("failed", "failed")]
)
def test_after_a_restart_what_went_on_is_silent_until_it_speaks(kept: str, now: str) -> None:
    life = Life()
    life.restore(kept)
    assert life.state == now
