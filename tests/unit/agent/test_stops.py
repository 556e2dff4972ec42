"""What stops is said once, by its kind, and again when it goes on."""

from __future__ import annotations

import socket

import pytest

from lossguard.agent.process_table import Ended, ProcessState
from lossguard.agent.standstill import HangBounds
from lossguard.agent.stops import Stops, failed
from lossguard.detectors import Finding, Severity, Symptom
from lossguard.probes import wire
from tests.support.probe import hello_of


class Table:
    """A process table that says what the test wants."""

    def __init__(self) -> None:
        self.pid = 1
        self.now: ProcessState = "running"
        self.traced = False
        self.end = "killed by SIGKILL"

    def state(self) -> ProcessState:
        return self.now

    def is_traced(self) -> bool:
        return self.traced

    def ended(self) -> Ended:
        return Ended(self.end, for_memory=True, rss_bytes=2_000_000_000)

    def close(self) -> None:
        pass


class Watch:
    """A run of some ranks, second by second."""

    def __init__(self, world_size: int = 1) -> None:
        self.stops = Stops(HangBounds())
        self.tables = [Table() for _ in range(world_size)]
        for rank, table in enumerate(self.tables):
            hello = hello_of(rank=rank, world_size=world_size, host=socket.gethostname(), pid=1)
            self.stops.join(hello, 0.0)
            self.stops.ranks[rank].table = table  # type: ignore[assignment]
        self.found: list[Finding] = []
        self.second = 0

    def go(self, seconds: int, *, beats: bool = True, moves: bool = True, **phases: str) -> None:
        """Time goes by; ``r2="data"`` says where rank 2 is."""
        for _ in range(seconds):
            self.second += 1
            for rank in range(len(self.tables)) if beats else ():
                beat = wire.Heartbeat(
                    run="run-a", rank=rank, step=50, applied=50, dropped=0, time_s=0.0,
                    moves=self.second if moves else 0, phase=phases.get(f"r{rank}", "script"),
                    at=f"train.py:{rank}",
                )  # fmt: skip
                self.stops.hear(beat, float(self.second))
            self.found += self.stops.look(float(self.second), 50)


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_run_that_goes_on_is_left_alone(watch: Watch) -> None:
    watch.go(1000)
    assert watch.found == []


def test_a_hang_is_said_once_and_so_is_its_end(watch: Watch) -> None:
    watch.go(3)
    watch.go(100, moves=False)
    watch.go(3)
    begun, ended = watch.found
    assert (begun.symptom, begun.severity, begun.end_step) == (
        Symptom.HANG, Severity.CRITICAL, None,
    )  # fmt: skip
    assert "in script at train.py:0" in begun.message
    assert (ended.onset_step, ended.end_step) == (begun.onset_step, 50)


def test_a_hang_goes_on_while_somebody_looks_into_it(watch: Watch) -> None:
    """Whoever reads its stacks halts it for a moment, in which it counts neither as running nor as
    still. Were that its end, its stacks would be read again and again."""
    watch.go(50)
    watch.go(60, moves=False)
    for _ in range(3):
        watch.tables[0].traced = True
        watch.go(2, beats=False)
        watch.tables[0].traced = False
        watch.go(60, moves=False)
    assert [f.end_step for f in watch.found] == [None]
    watch.go(5)
    assert [f.end_step for f in watch.found] == [None, 50]


def test_a_hang_that_ends_in_death_does_not_go_on(watch: Watch) -> None:
    """Resolved would send whoever is awake back to bed; its healthy twin goes on, above."""
    watch.go(3)
    watch.go(100, moves=False)
    watch.tables[0].now = "gone"
    watch.go(10, beats=False)
    hang, death = watch.found
    assert (hang.symptom, hang.end_step) == (Symptom.HANG, None)
    assert death.symptom is Symptom.PROCESS_EXIT


def test_a_process_in_the_place_of_one_that_hung_has_no_hang_to_end(watch: Watch) -> None:
    watch.go(3)
    watch.go(100, moves=False)
    hello = hello_of(world_size=1, host=socket.gethostname(), pid=2)
    watch.stops.join(hello, float(watch.second))
    watch.stops.ranks[0].table = Table()  # type: ignore[assignment]
    watch.go(10)
    assert [finding.end_step for finding in watch.found] == [None]


def test_a_stopped_process_is_no_hang_but_is_said(watch: Watch) -> None:
    watch.go(3)
    watch.tables[0].now = "stopped"
    watch.go(3600, beats=False)
    watch.tables[0].now = "running"
    watch.go(30)
    begun, ended = watch.found
    assert begun.severity is Severity.WARNING
    assert "kill -CONT 1" in begun.message
    assert ended.end_step is not None


def test_a_process_in_a_debugger_is_left_alone(watch: Watch) -> None:
    watch.go(3)
    watch.tables[0].traced = True
    watch.go(3600, beats=False)
    assert watch.found == []


def test_without_heartbeats_it_is_native_code(watch: Watch) -> None:
    watch.go(3)
    watch.go(60, beats=False)
    (found,) = watch.found
    assert "native code that holds the GIL" in found.message


def test_a_process_on_another_host_that_is_silent_is_not_called_hung(watch: Watch) -> None:
    watch.tables[0].now = "elsewhere"
    watch.go(3)
    watch.go(3600, beats=False)
    assert watch.found == []


def test_an_agent_that_slept_blames_nobody(watch: Watch) -> None:
    watch.go(3)
    watch.second += 7200
    watch.go(5, moves=False)
    assert watch.found == []


def test_heartbeats_that_waited_for_an_agent_that_slept_teach_nothing(watch: Watch) -> None:
    """They are heard before the clock is looked at, and the loop had not moved at the first."""
    watch.go(3)
    watch.second += 7200
    for moves in (3, 3, 4):
        beat = wire.Heartbeat(
            run="run-a", rank=0, step=50, applied=50, dropped=0, time_s=0.0, moves=moves,
            phase="script",
        )  # fmt: skip
        watch.stops.hear(beat, float(watch.second))
        watch.found += watch.stops.look(float(watch.second), 50)
    assert watch.found == []
    assert watch.stops.ranks[0].standstill.allowed_s("script") == 24.0
    watch.go(26, moves=False)
    assert [found.symptom for found in watch.found] == [Symptom.HANG]


@pytest.mark.parametrize("traced", [True, False])
def test_a_debugger_is_said_once_and_so_is_its_end(watch: Watch, traced: bool) -> None:
    """Whether it halts the process from outside or waits for a person inside of it."""
    watch.go(3)
    watch.tables[0].traced = traced
    watch.go(600, moves=False, r0="script" if traced else "debugger")
    (words,) = watch.stops.take_words()
    assert ("held by a debugger" if traced else "in a debugger at train.py:0") in words
    watch.tables[0].traced = False
    watch.go(3)
    assert watch.stops.take_words() == ["the process is out of the debugger"]
    assert watch.found == []


def test_who_only_reads_stacks_is_no_debugger(watch: Watch) -> None:
    watch.go(3)
    watch.tables[0].traced = True
    watch.go(2)
    watch.tables[0].traced = False
    watch.go(60)
    assert watch.stops.take_words() == []


def test_a_rank_that_loads_data_holds_the_others() -> None:
    watch = Watch(world_size=3)
    watch.go(3)
    watch.go(60, moves=False, r0="collective", r1="backward", r2="data")
    (found,) = watch.found
    assert "rank 2 is in data at train.py:2: ranks 0 and 1 wait for it" in found.message
    assert found.evidence["rank"] == 2.0


def test_a_dead_rank_is_named_with_how_it_died() -> None:
    watch = Watch(world_size=2)
    watch.go(3)
    watch.tables[1].now = "gone"
    watch.go(5)
    (found,) = watch.found
    assert found.symptom is Symptom.PROCESS_EXIT
    assert "rank 1" in found.message
    assert "killed by SIGKILL: the kernel ran out of memory meanwhile" in found.message
    assert "2.00 GB" in found.message


def test_a_process_that_ended_well_wakes_nobody_though_its_goodbye_was_lost(watch: Watch) -> None:
    """As where the agent was stopped meanwhile."""
    watch.go(3)
    watch.tables[0].now, watch.tables[0].end = "gone", "exit code 0"
    watch.go(60, beats=False)
    (found,) = watch.found
    assert found.severity is Severity.INFO
    assert "exit code 0" in found.message


def test_a_rank_that_said_goodbye_is_not_missed() -> None:
    watch = Watch(world_size=2)
    watch.go(3)
    watch.stops.leave(1)
    watch.go(100)
    assert watch.found == []


@pytest.mark.parametrize("reason", ["finished", "closed", "stopped"])
def test_a_good_end_is_none_of_it(reason: str) -> None:
    bye = wire.Bye(run="run-a", rank=0, step=9, reason=reason)  # type: ignore[arg-type]
    assert failed(bye, 1) is None


def test_an_exception_is_said_in_its_own_words() -> None:
    error = "Traceback (most recent call last):\n  File ...\nValueError: a bad thing\n"
    found = failed(wire.Bye(run="run-a", rank=0, step=9, reason="exception", error=error), 1)
    assert found is not None
    assert found.message == "the training failed at step 9: ValueError: a bad thing"


def test_of_an_error_of_many_lines_the_one_that_names_it_is_said() -> None:
    """CUDA's go on with where to look."""
    error = (
        'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n'
        "    tokens[0] = 1\n    ~~~~~~^^^\n"
        "torch.AcceleratorError: CUDA error: device-side assert triggered\n"
        "Search for `cudaErrorAssert' in the documentation.\nCompile with `TORCH_USE_CUDA_DSA`.\n"
    )
    found = failed(wire.Bye(run="run-a", rank=0, step=9, reason="exception", error=error), 1)
    assert found is not None
    assert found.message.endswith(
        "9: torch.AcceleratorError: CUDA error: device-side assert triggered"
    )
