"""What is written is there, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import logging
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.agent.incidents import Incidents
from lossguard.agent.store import Answer, Store
from lossguard.errors import ConfigError
from lossguard.probes import wire
from tests.support.probe import hello_of
from tests.support.streams import finding
from tests.support.waiting import eventually


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new one."""
    store = Store(tmp_path / "state" / "lossguard.db")
    yield store
    store.close()


def again(store: Store) -> Store:
    """The same file, opened by the next agent."""
    store.close()
    return Store(store.path)


def order(command: str, run: str = "run-a") -> wire.Command:
    """A command."""
    return wire.Command(run=run, command=command, action="rollback", expires_step=9)


def test_everything_comes_back_as_it_was(store: Store) -> None:
    """Runs, states, steps with NaN and Inf, incidents and commands."""
    incidents = Incidents("run-a", lambda: 1.0)
    incidents.take(finding(5))
    store.add_run(hello_of())
    store.save_run("run-a", {"step": 5, "deep": {"x": [1.5, None, b"raw"]}})
    store.add_step("run-a", 4, 4, 0.5, {"loss": math.nan, "grad_norm": -math.inf})
    store.add_step("run-a", 5, 4, 0.6, {"loss": 1.0})
    store.add_step("run-a", 5, 4, 0.6, {"val_loss": 2.0})
    store.put_incident(incidents.all[0].kept())
    store.add_command(order("a"), "run-a.1")
    store.add_command(order("b"), "")
    store.end_command("b", "done", 6, "restored_step 3")
    other = again(store)
    assert other.runs() == [
        (hello_of(), "running", {"step": 5, "deep": {"x": [1.5, None, b"raw"]}})
    ]
    four, five = other.steps_after("run-a", 3)
    assert math.isnan(four.metrics["loss"])
    assert four.metrics["grad_norm"] == -math.inf
    assert five.metrics == {"loss": 1.0, "val_loss": 2.0}
    assert other.incidents("run-a") == [incidents.all[0].kept()]
    assert other.pending_commands("run-a") == [(order("a"), "run-a.1")]
    assert other.command("b") == Answer("done", 6, "restored_step 3")
    assert other.command("c") is None
    other.close()


_WRITER = """
import sys
from pathlib import Path
from lossguard.agent.store import Store
from tests.support.probe import hello_of
store = Store(Path(sys.argv[1]))
store.add_run(hello_of())
for step in range(1, 10**9):
    store.add_step("run-a", step, step, 0.0, {"loss": float(step)})
    store.save_run("run-a", {"step": step, "ballast": b"x" * 100_000})
    if step % 10 == 0:
        store.commit()
        print(step, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_loses_nothing_committed(tmp_path: Path) -> None:
    """Every step that was committed is there, and the saved state is of the same moment."""
    path = tmp_path / "lossguard.db"
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        committed = int([line for line in said if line.endswith("\n")][-1])
        store = Store(path)
        ((_, _, saved),) = store.runs()
        assert saved is not None
        assert saved["step"] >= committed
        steps = [kept.step for kept in store.steps_after("run-a", 0)]
        assert steps[: saved["step"]] == list(range(1, saved["step"] + 1))
        store.drop_steps("run-a")
        store.close()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "header", "middle"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept, said in the log, and nothing stands in the way of the next agent."""
    store.add_run(hello_of())
    for step in range(5000):
        store.add_step("run-a", step, step, 0.0, {"loss": 1.0})
    store.close()
    whole = store.path.read_bytes()
    broken = {
        "truncated": whole[: len(whole) // 2],
        "garbage": os.urandom(len(whole)),
        "header": b"\0" * 100 + whole[100:],
        "middle": whole[:8192] + os.urandom(20_000) + whole[28_192:],
    }[damage]
    store.path.write_bytes(broken)
    with caplog.at_level(logging.ERROR):
        fresh = Store(store.path)
    assert fresh.runs() == []
    fresh.close()
    (aside,) = (p for p in store.path.parent.glob("*.damaged-*") if p.suffix != ".db-wal")
    assert aside.read_bytes() == broken
    assert "damaged" in caplog.text


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    """Created and never written to is not damaged."""
    (tmp_path / "lossguard.db").touch()
    Store(tmp_path / "lossguard.db").close()
    assert [p.name for p in tmp_path.iterdir()] == ["lossguard.db"]


def test_a_file_of_a_newer_schema_is_refused_and_left_alone(store: Store) -> None:
    """Neither set aside nor written to: the newer version can be installed again."""
    store.add_run(hello_of())
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = store.path.read_bytes()
    with pytest.raises(ConfigError, match="schema 99, this agent knows 2: a newer lossguard"):
        Store(store.path)
    assert store.path.read_bytes() == before


def test_a_path_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    """The message names the path and another way."""
    (tmp_path / "lossguard.db").mkdir()
    with pytest.raises(ConfigError, match=r"lossguard\.db cannot be opened .*LOSSGUARD_HOME"):
        Store(tmp_path / "lossguard.db")


def test_a_full_disk_is_said_once_and_nothing_is_lost_when_it_is_free_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Commands are journaled in memory meanwhile, so that they are neither stopped nor repeated."""
    store.add_run(hello_of())
    store.commit()
    store._db.execute("PRAGMA max_page_count = 1")
    with caplog.at_level(logging.WARNING):
        for step in range(3000):
            store.add_step("run-a", step, step, 0.0, {"loss": 1.0})
            if step % 100 == 0:
                store.tick()
        store.add_command(order("a"), "")
        store.end_command("a", "done", 7, "well")
        assert store.command("a") == Answer("done", 7, "well")
        assert len(caplog.records) == 1
        assert "cannot write" in caplog.text
        store._db.execute("PRAGMA max_page_count = 1000000")
        assert store.commit()
    assert "written to again" in caplog.text
    other = again(store)
    assert len(list(other.steps_after("run-a", -1))) == 3000
    assert other.command("a") == Answer("done", 7, "well")
    other.close()


def test_somebody_elses_lock_does_not_hold_the_agent(store: Store) -> None:
    """A person with a shell on the database delays writing, not judging."""
    store.add_run(hello_of())
    store.commit()
    with sqlite3.connect(store.path) as other:
        other.execute("BEGIN IMMEDIATE")
        store.add_step("run-a", 1, 1, 0.0, {})
        assert not store.commit()
        other.rollback()
    other.close()
    assert store.commit()


def test_one_row_that_cannot_be_written_does_not_stop_the_others(store: Store) -> None:
    """What no database can hold is dropped and said, and does not come up again."""
    store.add_run(hello_of())
    store.commit()
    store.add_step("run-a", 2**70, 0, 0.0, {})
    store.tick()
    store.add_step("run-a", 1, 1, 0.0, {})
    assert store.commit()
    assert [kept.step for kept in store.steps_after("run-a", 0)] == [1]


def test_one_row_that_cannot_be_read_does_not_hide_the_others(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out, and said."""
    store.add_run(hello_of("run-a"))
    store.add_run(hello_of("run-b"))
    store.commit()
    store._db.execute("UPDATE runs SET hello = x'00ff' WHERE run = 'run-a'")
    with caplog.at_level(logging.ERROR):
        assert [hello.run for hello, _, _ in store.runs()] == ["run-b"]
    assert "run run-a in the database makes no sense" in caplog.text


def test_old_runs_are_forgotten_with_all_that_is_theirs(store: Store) -> None:
    """Beyond the newest so many, nothing is left, also of one whose agent ended meanwhile."""
    for i in range(5):
        store.add_run(hello_of(f"run-{i}", started_s=float(i)))
        for step in range(6000):
            store.add_step(f"run-{i}", step, step, 0.0, {})
        store.add_command(order(f"c{i}", f"run-{i}"), "")
    store.commit()
    store.keep_newest(2)
    store.commit()
    other = again(store)

    def purged() -> bool:
        other.tick()
        return not other._purging

    eventually(purged)
    assert [hello.run for hello, _, _ in other.runs()] == ["run-4", "run-3"]
    assert list(other.steps_after("run-0", -1)) == []
    assert len(list(other.steps_after("run-4", -1))) == 6000
    assert other.command("c0") is None
    other.close()


def test_the_hello_of_rank_0_stands_for_the_run(store: Store) -> None:
    """Whoever speaks first, the next agent looks for rank 0; a new process takes its place."""
    store.add_run(hello_of(rank=1, pid=5))
    store.add_run(hello_of(rank=0, pid=6))
    store.add_run(hello_of(rank=1, pid=7))
    ((hello, _, _),) = store.runs()
    assert (hello.rank, hello.pid) == (0, 6)


def test_very_long_runs_keep_their_newest_steps(store: Store) -> None:
    """A million steps a run, not more."""
    for step in (1, 2, 1_000_001, 1_000_002):
        store.add_step("run-a", step, step, 0.0, {})
    store.prune("run-a", 1_000_002)
    store.commit()
    store.prune("run-a", 1_000_002)
    assert [kept.step for kept in store.steps_after("run-a", 0)] == [2, 1_000_001, 1_000_002]


@pytest.mark.parametrize("disk", ["takes it", "is full"])
def test_no_command_is_forgotten_for_many_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    """Its id would be taken for a new one's, and carried out again; on a full disk as well."""
    monkeypatch.setattr("lossguard.agent.store._MAX_ANSWERS", 2)
    if disk == "is full":
        monkeypatch.setattr(store, "_write_all", _disk_is_full)
    for number in range(10):
        order = wire.Command(run="run-a", command=f"c{number}", action="skip", expires_step=9)
        store.add_command(order, "")
        store.end_command(order.command, "done", number, "")
    known = [store.command(f"c{number}") for number in range(10)]
    assert known == [Answer("done", number, "") for number in range(10)]
    monkeypatch.undo()
    assert store.commit()
    assert len(store._answers) <= 1000


def _disk_is_full() -> None:
    raise sqlite3.OperationalError("database or disk is full")
