"""One observation a step out of the parts of several ranks: in time, in order, never a part."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from lossguard.agent.feed import RunState
from lossguard.agent.live import LiveRun
from lossguard.agent.placement import Placement
from lossguard.agent.ranks_joined import PATIENCE_S, RanksJoined
from lossguard.agent.store import Store
from lossguard.detectors import Observation
from lossguard.probes import wire
from tests.support.probe import hello_of

NAMES = ("loss", "grad_norm", "grad_norm/a", "grad_norm/b", "grad_norm/c")
MISSING = float(np.array([wire.MISSING_BITS], "<u4").view("<f4")[0])


def layout(rank: int = 0, **changes: Any) -> wire.Layout:
    """``a`` is cut over ranks 0 and 1, ``b`` over 0 and 2, ``c`` is whole."""
    known: dict[str, Any] = {
        "names": list(NAMES),
        "holders": [[0, 1], [0, 2]],
        "held_by": [wire.WHOLE, wire.OF_FAMILY, 0, 1, wire.WHOLE],
    }
    return wire.Layout(run="run-a", rank=rank, layout=0, **(known | changes))


def buffer(*values: float) -> bytes:
    """``MISSING`` is not measured."""
    found = np.array(values, "<f4")
    found.view("<u4")[[v is MISSING for v in values]] = wire.MISSING_BITS
    return found.tobytes()


class Ranks:
    """Three ranks that speak by hand."""

    def __init__(self, world_size: int = 3, **changes: Any) -> None:
        self.joined = RanksJoined(world_size)
        self.placement = Placement(layout(**changes))

    def say(self, rank: int, step: int, *values: float, at: float = 0.0) -> list[Observation]:
        """One step of one rank; what is ready by it."""
        header = wire.Step(
            run="run-a", rank=rank, step=step, applied=step, layout=0, sequence=step, time_s=0.0
        )
        observation = self.placement.place(header, buffer(*values))
        return self.joined.take(rank, self.placement, observation, at)


def test_parts_are_added_and_what_is_whole_is_not() -> None:
    """Each by the ranks that hold it, and the total over all of them."""
    ranks = Ranks()
    assert ranks.say(0, 1, 0.5, 99.0, 3.0, 6.0, 2.0) == []
    assert ranks.say(2, 1, 0.6, 99.0, 77.0, 8.0, 2.0) == []
    (found,) = ranks.say(1, 1, 0.7, 99.0, 4.0, 77.0, 2.0)
    family = found.families["grad_norm"]
    assert family.values.tolist() == [5.0, 10.0, 2.0]
    assert not family.missing.any()
    assert found.values == {"loss": 0.5, "grad_norm": pytest.approx(math.sqrt(25 + 100 + 4))}


def test_where_all_are_cut_alike_totals_are_enough() -> None:
    """A model with too many parameters to send each."""
    ranks = Ranks(2, names=["loss", "grad_norm"], holders=[[0, 1]], held_by=[wire.WHOLE, 0])
    assert ranks.say(1, 1, 0.7, 4.0) == []
    (found,) = ranks.say(0, 1, 0.5, 3.0)
    assert found.values == {"loss": 0.5, "grad_norm": 5.0}


def test_a_total_of_many_kinds_without_its_family_is_unknown() -> None:
    """A part in its place would be a wrong number."""
    ranks = Ranks(2, names=["loss", "grad_norm"], holders=[], held_by=[wire.WHOLE, wire.OF_FAMILY])
    (found,) = ranks.say(0, 1, 0.5, 3.0)
    assert found.values == {"loss": 0.5}


def test_replicas_wait_for_nobody() -> None:
    """With DDP rank 0 knows it all."""
    ranks = Ranks(8, holders=[], held_by=[])
    (found,) = ranks.say(0, 1, 0.5, 7.0, 3.0, 6.0, 2.0)
    assert found.values["grad_norm"] == 7.0
    assert ranks.say(1, 1, 0.5, 7.0, 3.0, 6.0, 2.0) == []


def test_steps_come_out_in_order() -> None:
    """Whatever the order in which the ranks are heard."""
    ranks = Ranks(2, holders=[[0, 1]], held_by=[-1, -2, 0, 0, -1])
    found = [o for step in (1, 2, 3) for o in ranks.say(1, step, 0.0, 1.0, 4.0, 4.0, 0.0)]
    assert found == []
    found = [o for step in (1, 2) for o in ranks.say(0, step, step, 1.0, 3.0, 3.0, 0.0)]
    found += ranks.say(0, 4, 4.0, 1.0, 3.0, 3.0, 0.0)
    found += ranks.say(0, 5, 5.0, 1.0, 3.0, 3.0, 0.0)
    found += ranks.say(1, 4, 0.0, 1.0, 4.0, 4.0, 0.0)
    found += ranks.say(1, 5, 0.0, 1.0, 4.0, 4.0, 0.0)
    assert [(o.step, o.values["loss"]) for o in found] == [(1, 1), (2, 2), (4, 4), (5, 5)]
    assert [o.values["grad_norm"] for o in found] == pytest.approx([math.sqrt(50)] * 4)


def test_a_step_that_a_rank_has_lost_goes_on_without_its_parts() -> None:
    """A later one of that rank says so: no waiting."""
    ranks = Ranks(2, holders=[[0, 1]], held_by=[-1, -2, 0, -1, -1])
    assert ranks.say(0, 1, 0.5, 9.0, 3.0, 6.0, 2.0) == []
    (found,) = ranks.say(1, 2, 0.5, 9.0, 3.0, 6.0, 2.0)
    assert found.values == {"loss": 0.5}
    assert found.families["grad_norm"].missing.tolist() == [True, False, False]
    assert ranks.joined.incomplete == 1
    (found,) = ranks.say(0, 2, 0.5, 9.0, 4.0, 6.0, 2.0)
    assert found.values["grad_norm"] == pytest.approx(math.sqrt(25 + 36 + 4))


def test_nobody_waits_longer_than_two_seconds() -> None:
    """A rank that is silent costs two seconds, and its parts; it does not hold up the rest."""
    ranks = Ranks()
    assert ranks.say(0, 1, 0.5, 9.0, 3.0, 6.0, 2.0, at=10.0) == []
    assert ranks.joined.ready(10.0 + 0.9 * PATIENCE_S) == []
    (found,) = ranks.joined.ready(10.0 + PATIENCE_S)
    assert found.values == {"loss": 0.5}
    assert not ranks.joined.is_waiting


def test_a_rank_that_left_or_does_not_exist_is_not_awaited() -> None:
    """Scripts that start their ranks on their own may be known as one rank only."""
    ranks = Ranks(1)
    assert len(ranks.say(0, 1, 0.5, 9.0, 3.0, 6.0, 2.0)) == 1
    ranks = Ranks()
    ranks.say(0, 1, 0.5, 9.0, 3.0, 6.0, 2.0)
    ranks.joined.leave(1)
    assert ranks.joined.ready(0.0) == []
    ranks.joined.leave(2)
    assert len(ranks.joined.ready(0.0)) == 1


def test_what_is_not_finite_stays_so_and_what_is_missing_everywhere_too() -> None:
    """One NaN in one part is a NaN of the whole; a part without a gradient is none."""
    ranks = Ranks(2, holders=[[0, 1]], held_by=[-1, -2, 0, 0, 0])
    ranks.say(1, 1, 0.5, 9.0, math.nan, 4.0, MISSING)
    (found,) = ranks.say(0, 1, 0.5, 9.0, 3.0, MISSING, MISSING)
    family = found.families["grad_norm"]
    assert math.isnan(family.values[0])
    assert family.values[1] == 4.0
    assert family.missing.tolist() == [False, False, True]
    assert math.isnan(found.values["grad_norm"])


def test_memory_is_bounded() -> None:
    """One rank far ahead, or alone: neither keeps more than some hundred steps."""
    ranks = Ranks()
    for step in range(1, 2000):
        ranks.say(1, step, 0.5, 9.0, 3.0, 6.0, 2.0)
        ranks.say(2, step, 0.5, 9.0, 3.0, 6.0, 2.0)
    assert all(len(kept) <= 512 for kept in ranks.joined._parts.values())
    ranks = Ranks()
    found = [o for step in range(1, 2000) for o in ranks.say(0, step, 0.5, 9.0, 3.0, 6.0, 2.0)]
    assert len(ranks.joined._waiting) <= 512
    assert [o.step for o in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize(
    "nonsense",
    [
        {"held_by": [0]},
        {"held_by": [7, 7, 7, 7, 7]},
        {"holders": [], "held_by": [0, 0, 0, 0, 0]},
        {"holders": [[10**18, -5]], "held_by": [-1, 0, 0, 0, -9]},
    ],
)
def test_a_layout_that_contradicts_itself_breaks_nothing(nonsense: dict[str, Any]) -> None:
    """It comes from outside."""
    ranks = Ranks(2, **nonsense)
    ranks.say(0, 1, 0.5, 9.0, 3.0, 6.0, 2.0)
    assert not [o for o in ranks.joined.ready(math.inf) if o.values["loss"] != 0.5]


def test_names_in_another_order_are_put_right() -> None:
    """Ranks need not agree on it, and one may know less."""
    ranks = Ranks(2, holders=[[0, 1]], held_by=[-1, -2, 0, 0, 0])
    other = Placement(layout(1, names=["loss", "grad_norm", "grad_norm/b", "grad_norm/a", "x"]))
    header = wire.Step(run="run-a", rank=1, step=1, applied=1, layout=0, sequence=1, time_s=0.0)
    ranks.joined.take(1, other, other.place(header, buffer(0.0, 9.0, 8.0, 4.0, 0.0)), 0.0)
    (found,) = ranks.say(0, 1, 0.5, 9.0, 3.0, 6.0, 2.0)
    assert found.families["grad_norm"].values.tolist() == [5.0, 10.0, 2.0]


# --- a run that is connected ----------------------------------------------------------------


class Live:
    """A run of two ranks, and its store."""

    def __init__(self, store: Store) -> None:
        self.run = LiveRun(hello_of(world_size=2, policy="observe"), store, lambda *_: True)
        for rank in (0, 1):
            self.run.greet(
                b"%d" % rank, hello_of(rank=rank, world_size=2, policy="observe"), time.monotonic()
            )
            cuts = {"holders": [[0, 1]], "held_by": [-1, 0]}
            self.run.lay_out(layout(rank, names=["loss", "grad_norm"], **cuts))

    def say(self, rank: int, step: int, *values: float) -> None:
        """One step of one rank."""
        header = wire.Step(
            run="run-a", rank=rank, step=step, applied=step, layout=0, sequence=step, time_s=0.0
        )
        assert self.run.take_step(header, buffer(*values), time.monotonic())

    def part(self, rank: int) -> RunState:
        """It says goodbye; how the run is then."""
        self.run.parted(wire.Bye(run="run-a", rank=rank, step=1, reason="finished"))
        return self.run.state

    def tick(self, later_s: float = 0.0) -> RunState:
        """The clock goes on; how the run is then."""
        self.run.tick(time.monotonic() + later_s)
        return self.run.state


@pytest.fixture
def live(tmp_path: Any) -> Any:
    """With a store that is closed in the end."""
    store = Store(tmp_path / "runs.db")
    yield Live(store)
    store.close()


def test_the_judged_norm_is_that_of_the_whole_and_each_ranks_own_is_kept(live: Live) -> None:
    """For whoever wants to compare ranks."""
    live.say(0, 1, 0.5, 3.0)
    assert "grad_norm" not in live.run.run.charts.last
    live.say(1, 1, 0.7, 4.0)
    assert live.run.run.charts.last["grad_norm"] == 5.0
    assert [live.run.ranks[r].last["grad_norm"] for r in (0, 1)] == [3.0, 4.0]
    assert [live.run.ranks[r].last["loss"] for r in (0, 1)] == pytest.approx([0.5, 0.7])


def test_a_run_ends_when_its_last_step_is_judged(live: Live) -> None:
    """Rank 0 has parted, and rank 1's part of the last step is still on its way."""
    live.say(0, 1, 0.5, 3.0)
    assert live.part(0) == "running"
    live.say(1, 1, 0.7, 4.0)
    assert live.part(1) == "finished"
    assert live.run.run.charts.last["grad_norm"] == 5.0


def test_a_part_that_never_comes_keeps_no_run_alive(live: Live) -> None:
    """Neither when all have parted nor when one is silent; it is said once."""
    live.say(0, 1, 0.5, 3.0)
    live.say(0, 2, 0.5, 3.0)
    live.part(0)
    assert live.tick() == "running"
    assert live.tick(later_s=PATIENCE_S) == "finished"
    assert live.run.run.step == 2
    assert "grad_norm" not in live.run.run.charts.last
    assert [e.kind for e in live.run.run.events].count("parts_missing") == 1


def test_all_ranks_parting_ends_it_at_once(live: Live) -> None:
    """Nothing more can come."""
    live.say(0, 1, 0.5, 3.0)
    assert live.part(1) == "running"
    assert live.part(0) == "finished"
    assert live.run.run.charts.last["loss"] == 0.5
