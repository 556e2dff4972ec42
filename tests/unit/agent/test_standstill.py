"""When a loop that does nothing is called hung, and when it is not."""

from __future__ import annotations

import pytest

from lossguard.agent.standstill import NATIVE, STARTUP, Beat, HangBounds, Standstill


def beating(
    until_s: int, *, phase: str = "script", moves: bool = True, step: int = 100, **bounds: float
) -> Standstill:
    """A beat a second; the loop moves at each of them, or has not since the first."""
    watched = Standstill(HangBounds(**bounds))
    for second in range(until_s + 1):
        watched.hear(Beat(float(second), step, second if moves else 0, phase, "train.py:1 in f"))
    return watched


def test_a_loop_that_moves_is_never_stuck() -> None:
    assert beating(10_000).judge(10_000.0, 5.0) is None


def test_a_loop_that_stands_is_stuck_after_its_bound_and_not_before() -> None:
    watched = beating(30, moves=False)
    assert watched.judge(23.9, 5.0) is None
    still = watched.judge(30.0, 5.0)
    assert still is not None
    assert (still.phase, still.lasted_s, still.allowed_s) == ("script", 30.0, 24.0)
    assert still.at == "train.py:1 in f"


@pytest.mark.parametrize(
    ("phase", "patience_s"), [("eval", 180.0), ("checkpoint", 600.0), ("compile", 900.0)]
)
def test_what_takes_long_may_take_long(phase: str, patience_s: float) -> None:
    watched = beating(2000, phase=phase, moves=False)
    assert watched.judge(patience_s, 1e9) is None
    assert watched.judge(patience_s + 1.0, 1e9) is not None


def test_a_debugger_is_never_a_hang() -> None:
    assert beating(100_000, phase="debugger", moves=False).judge(100_000.0, 5.0) is None


def test_the_first_steps_may_compile() -> None:
    watched = beating(800, moves=False, step=2)
    assert watched.judge(800.0, 5.0) is None
    still = watched.judge(901.0, 1e9)
    assert still is not None
    assert still.phase == STARTUP


def test_a_phase_that_was_slow_before_may_be_slow_again() -> None:
    """Twenty seconds of the script's own work between two steps: five times that from then on."""
    watched = Standstill()
    watched.hear(Beat(0.0, 10, 0, "script", ""))
    watched.hear(Beat(20.0, 11, 1, "script", ""))
    assert watched.allowed_s("script") == 100.0
    assert watched.allowed_s("data") == 24.0


@pytest.mark.parametrize(("lasted_s", "allowed_s"), [(30.0, 150.0), (3600.0, 240.0)])
def test_what_went_on_by_itself_is_called_later_the_next_time(
    lasted_s: float, allowed_s: float
) -> None:
    """A stall of the network disk is not to wake somebody twice; one of an hour teaches little."""
    watched = Standstill()
    watched.hear(Beat(0.0, 10, 0, "script", ""))
    assert watched.judge(lasted_s, 1e9) is not None
    watched.hear(Beat(lasted_s, 11, 1, "script", ""))
    assert watched.allowed_s("script") == allowed_s


def test_workers_that_are_slow_to_start_are_so_at_every_epoch() -> None:
    """What took long before the first step is allowed again, of the data alone."""
    watched = Standstill()
    watched.hear(Beat(0.0, 0, 0, "data", ""))
    watched.hear(Beat(40.0, 1, 1, "script", ""))
    assert watched.allowed_s("data") == 200.0
    assert watched.allowed_s("script") == 24.0


def test_what_comes_after_a_long_phase_is_judged_by_itself() -> None:
    """Ten minutes in a debugger, nine in a checkpoint, and a second of the script's own."""
    watched = Standstill()
    for second in range(1200):
        phase = "debugger" if second < 600 else "checkpoint" if second < 1140 else "script"
        watched.hear(Beat(float(second), 50, 7, phase, ""))
        stuck = watched.judge(float(second), 5.0)
        assert (stuck is not None) == (second > 1140 + 24), second
    watched.hear(Beat(1200.0, 51, 8, "script", ""))
    assert watched.allowed_s("script") == 240.0
    assert watched.allowed_s("checkpoint") == 5 * 540.0


def test_a_hang_that_visits_many_phases_is_one_all_the_same() -> None:
    """A save that fails and is tried again for ever."""
    watched = Standstill()
    for second in range(120):
        phase = "checkpoint" if second % 2 else "script"
        watched.hear(Beat(float(second), 50, 7, phase, ""))
    assert watched.judge(120.0, 5.0) is None
    watched.hear(Beat(120.0, 50, 7, "script", ""))
    assert watched.judge(120.5, 5.0) is not None


def test_without_a_heartbeat_it_is_native_code() -> None:
    watched = beating(10)
    still = watched.judge(40.0, 5.0)
    assert still is not None
    assert still.phase == NATIVE


def test_time_that_did_not_count_is_forgiven() -> None:
    """The process was stopped for an hour, or this one was."""
    watched = beating(10)
    watched.pardon(3600.0, 3611.0)
    assert watched.judge(3612.0, 5.0) is None


def test_a_pardon_does_not_reach_into_the_future() -> None:
    watched = beating(10)
    watched.pardon(7200.0, 3600.0)
    assert watched.judge(3623.0, 1e9) is None
    assert watched.judge(3625.0, 1e9) is not None


@pytest.mark.parametrize(
    "wrong",
    [{"after_s": 0.0}, {"times": 0.5}, {"grace_s": float("nan")}, {"startup_after_s": -1.0}],
)
def test_bounds_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HangBounds(**wrong)
