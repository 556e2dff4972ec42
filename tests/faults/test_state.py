"""Whatever befalls what the agent keeps, it serves, says so, and loses no more than it must."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lossguard.agent import database, feed
from lossguard.agent.incidents import Incidents
from lossguard.agent.registry import Registry
from lossguard.agent.retention import Retention
from lossguard.agent.retention_settings import RetentionSettings
from lossguard.agent.reviving import fresh_run
from lossguard.agent.store import Store
from lossguard.errors import ConfigError
from lossguard.probes import wire
from tests.faults.schemas import EARLIER
from tests.support.agents import AgentProcess, BeginAgent
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import finding
from tests.support.waiting import eventually

_pack = msgspec.msgpack.encode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a run of 3000 steps, an incident, and an order without an answer."""
    path = tmp_path / "state" / "lossguard.db"
    incidents = Incidents("run-a", lambda: 1.0)
    incidents.take(finding(5))
    store = Store(path)
    store.add_run(hello_of())
    for step in range(3000):
        store.add_step("run-a", step, step, 0.0, {"loss": 1.0, "grad_norm": 2.0})
    store.put_incident(incidents.all[0].kept())
    store.add_command(_order("c1"), "run-a.1")
    run = fresh_run(hello_of())
    run.step = 2999
    store.save_run("run-a", run.state())
    store.close()
    return path


def _order(command: str) -> wire.Command:
    return wire.Command(run="run-a", command=command, action="rollback", expires_step=9999)


def _is_whole(store: Store) -> bool:
    return len(store.runs()) == 1 and sum(1 for _ in store.steps_after("run-a", -1)) == 3000


# --- damage at the start ------------------------------------------------------------------------


def _flip(path: Path, places: range) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 0x55
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "emptied beside its log": lambda path: _empty_beside_log(path),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut within its header": lambda path: os.truncate(path, 50),
    "bits of its header turned": lambda path: _flip(path, range(16, 60)),
    "bits of its schema turned": lambda path: _flip(path, range(3000, 4000, 7)),
    "bits of its pages turned": lambda path: _flip(path, range(4096, path.stat().st_size, 97)),
    "something else": lambda path: path.write_bytes(os.urandom(50_000)),
    "text": lambda path: path.write_text("not a database\n" * 1000),
    "of another program": lambda path: _replace_by_tables(path, "CREATE TABLE runs (x)"),
}


def _empty_beside_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").write_bytes(path.read_bytes())
    path.write_bytes(b"")


def _replace_by_tables(path: Path, script: str) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.executescript(f"{script}; PRAGMA user_version = {database.SCHEMA}")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_database_is_set_aside_and_said(
    path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """The broken file is kept as it was; the new one takes a run; viewers can be told."""
    DAMAGE[damage](path)
    before = path.read_bytes()
    store = Store(path)
    store.add_run(hello_of("run-b"))
    store.close()
    (aside,) = database.damaged_files(path)
    assert aside.read_bytes() == before
    assert [hello.run for hello, _, _ in Store(path).runs()] == ["run-b"]
    assert aside.name in store.troubles()[0]
    assert ["is damaged" in r.message for r in caplog.records if r.levelname == "ERROR"] == [True]


def test_an_emptied_database_is_said_and_there_is_nothing_to_set_aside(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a kill before its first write."""
    path.write_bytes(b"")
    assert Store(path).runs() == []
    assert "is empty: nothing was kept, or it is lost" in caplog.text
    assert database.damaged_files(path) == []


def test_a_healthy_database_is_taken_as_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The twin: nothing is set aside, nothing said, nothing missing."""
    store = Store(path)
    assert _is_whole(store)
    assert (store.troubles(), caplog.records) == ([], [])
    store.close()


def test_a_write_ahead_log_that_is_gone_or_garbage_costs_what_was_in_it_alone(path: Path) -> None:
    """What had reached the file itself is there."""
    for wal in (b"", os.urandom(40_000)):
        path.with_name(f"{path.name}-wal").write_bytes(wal)
        store = Store(path)
        assert _is_whole(store)
        assert store.troubles() == []
        store.close()


def test_of_many_damaged_files_the_newest_are_kept(path: Path) -> None:
    """A disk that spoils everything must not fill up with what it has spoiled."""
    for number in range(database.KEPT_DAMAGED + 3):
        path.write_bytes(b"%d" % number * 100)
        Store(path).close()
    kept = database.damaged_files(path)
    assert len(kept) == database.KEPT_DAMAGED
    assert kept[-1].read_bytes() == b"%d" % (database.KEPT_DAMAGED + 2) * 100


def test_the_check_of_a_huge_database_is_broken_off(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent starts in bounded time, and says that it has not seen all of it."""
    monkeypatch.setattr(database, "_CHECK_S", -1.0)
    monkeypatch.setattr(database, "_CHECK_OPCODES", 10)
    store = Store(path)
    assert _is_whole(store)
    assert "the check was broken off" in caplog.text
    store.close()


# --- versions -----------------------------------------------------------------------------------


def _write_earlier(path: Path, version: int) -> None:
    incidents = Incidents("run-a", lambda: 1.0)
    incidents.take(finding(5))
    values = {
        "hello": wire.encode(hello_of()),
        "saved": _pack({"step": 7}),
        "metrics": _pack({"loss": 1.5}),
        "incident": _pack(incidents.all[0].kept()),
        "command": wire.encode(_order("c1")),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as db:
        for statement in filter(str.strip, EARLIER[version].split(";\n")):
            db.execute(statement, {k: v for k, v in values.items() if f":{k}" in statement})


def test_every_earlier_schema_has_its_text() -> None:
    """Whoever changes the schema writes down the one before."""
    assert list(EARLIER) == list(range(1, database.SCHEMA))
    assert set(database.RUNS.migrations) == set(EARLIER)


@pytest.mark.parametrize("version", EARLIER)
def test_what_an_earlier_version_kept_is_taken_up(tmp_path: Path, version: int) -> None:
    """Runs, steps, incidents and orders are there, and the file is of this version now."""
    path = tmp_path / "lossguard.db"
    _write_earlier(path, version)
    for _ in range(2):  # and the next agent finds it so
        store = Store(path)
        assert [(hello.run, saved) for hello, _, saved in store.runs()] == [("run-a", {"step": 7})]
        assert [kept.metrics for kept in store.steps_after("run-a", 0)] == [{"loss": 1.5}]
        assert [kept.id for kept in store.incidents("run-a")] == ["run-a.1"]
        assert store.pending_commands("run-a") == [(_order("c1"), "run-a.1")]
        assert store.heard() == {"run-a": 1700000000.0}
        assert store.troubles() == []
        store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (database.SCHEMA,)
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    """It says what to do, and nothing is set aside."""
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {database.SCHEMA + 1}")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="a newer lossguard wrote it; install that again"):
        Store(path)
    assert path.read_bytes() == before
    assert database.damaged_files(path) == []


# --- while the agent is at work -----------------------------------------------------------------


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    """The runs of that database, taken up."""
    store = Store(path)
    yield Registry(store, lambda identity, frame: True)
    store.close()


def _spoil(path: Path) -> None:
    """As a failing disk would: under the feet of whoever has it open."""
    for part in (path, path.with_name(f"{path.name}-wal")):
        with part.open("r+b") as file:
            size = part.stat().st_size
            file.write(os.urandom(size))


GONE: dict[str, Callable[[Path], object]] = {
    "its directory is deleted": lambda path: shutil.rmtree(path.parent),
    "the file is deleted": lambda path: path.unlink(),
    "another is put in its place": lambda path: os.replace(_copy(path), path),
    "its bytes are spoilt": _spoil,
}


def _copy(path: Path) -> Path:
    return Path(shutil.copy(path, path.with_name("copy.db")))


@pytest.mark.parametrize("what", GONE)
def test_a_file_that_goes_while_it_is_used_is_begun_anew_with_all_that_is_known(
    registry: Registry, path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Runs, incidents and orders without an answer are in the new one; once it is said."""
    store = registry.store
    live = registry.runs["run-a"]
    live.run.tell("note", 3000, "kept in memory")
    store.save_run("run-a", live.run.state())
    store.tick()
    GONE[what](path)
    store._db.execute("PRAGMA shrink_memory")  # what is cached would hide it for a while
    for step in range(3000, 3005):
        store.add_step("run-a", step, step, 0.0, {"loss": 1.0})
        store.tick()
        registry.tick(time.monotonic())
    store.tick()
    assert caplog.text.count("of no use any more") == 1
    found = sqlite3.connect(path)
    assert found.execute("SELECT run, state FROM runs").fetchall() == [("run-a", "running")]
    assert found.execute("SELECT id FROM incidents").fetchall() == [("run-a.1",)]
    assert found.execute("SELECT command, status FROM commands").fetchall() == [("c1", "pending")]
    assert found.execute("SELECT max(step) FROM steps").fetchone() == (3004,)
    found.close()


def test_a_place_that_cannot_be_written_again_is_tried_until_it_can(
    registry: Registry, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Meanwhile the agent goes on in memory, and says so to viewers."""
    store = registry.store
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")
    for step in range(3000, 3003):
        store.add_step("run-a", step, step, 0.0, {"loss": 1.0})
        store.tick()
    assert "waits in memory" in store.troubles()[0]
    path.parent.unlink()
    store.tick()
    store.tick()
    assert store.troubles() == []
    assert [kept.step for kept in store.steps_after("run-a", 2999)] == [3000, 3001, 3002]
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 2


# --- how much is kept ---------------------------------------------------------------------------


def _settle(store: Store, retention: Retention) -> None:
    for _ in range(400):
        retention._due_s = 0.0
        retention.tick()
        store.tick()


def _over(registry: Registry, name: str, steps: int) -> None:
    """A run that has ended."""
    registry.take(b"x", [wire.encode(hello_of(name, started_s=float(len(registry.runs))))])
    for step in range(steps):
        registry.store.add_step(name, step, step, 0.0, {"loss": 1.0, "words": step * 1.1})
        if step % 50_000 == 0:
            registry.store.commit()
    bye = wire.Bye(run=name, rank=0, step=steps, reason="finished")
    registry.take(b"x", [wire.encode(bye)])


def test_disk_use_stays_within_its_bound_and_the_file_shrinks(tmp_path: Path) -> None:
    """The oldest runs go first, little by little; one that goes on keeps its newest steps."""
    store = Store(tmp_path / "lossguard.db")
    registry = Registry(store, lambda identity, frame: True)
    registry.take(b"x", [wire.encode(hello_of("run-on"))])
    for step in range(1000):
        store.add_step("run-on", step, step, 0.0, {"loss": 1.0})
    for number in range(4):
        _over(registry, f"run-{number}", 100_000)
        store.commit()
    before = store.path.stat().st_size
    assert before > 20 << 20
    (tmp_path / "incidents").mkdir()
    _settle(store, Retention(RetentionSettings(max_mib=16), registry, tmp_path / "incidents"))
    assert "run-0" not in registry.runs
    assert {"run-3", "run-on"} <= registry.runs.keys()
    assert sum(1 for _ in store.steps_after("run-on", -1)) == 1000
    assert store.num_bytes() <= 16 << 20
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert store.path.stat().st_size < (16 << 20) + (8 << 20)
    store.close()


def test_old_runs_are_forgotten_and_younger_ones_are_not(tmp_path: Path) -> None:
    """By the day; with their folders of incidents. A run that goes on never is."""
    store = Store(tmp_path / "lossguard.db")
    registry = Registry(store, lambda identity, frame: True)
    registry.take(b"x", [wire.encode(hello_of("run-on", started_s=1.0))])
    _over(registry, "run-a", 3)
    store.commit()
    folder = tmp_path / "incidents" / "run-a.1"
    folder.mkdir(parents=True)
    (folder / "incident.json").write_text("{}")
    day_s = 86400.0
    for days, left in ((29, {"run-on", "run-a"}), (31, {"run-on"})):
        later = functools.partial(float, time.time() + days * day_s)
        retention = Retention(RetentionSettings(days=30), registry, tmp_path / "incidents", later)
        _settle(store, retention)
        assert set(registry.runs) == left
        assert folder.exists() == ("run-a" in left)
    store.close()


def test_a_run_that_goes_on_alone_is_kept_within_the_bound_too(tmp_path: Path) -> None:
    """Its oldest steps and folders go; the newest stay."""
    store = Store(tmp_path / "lossguard.db")
    registry = Registry(store, lambda identity, frame: True)
    registry.take(b"x", [wire.encode(hello_of("run-on"))])
    incidents = tmp_path / "incidents"
    for number in range(5):
        folder = incidents / f"run-on.{number}"
        folder.mkdir(parents=True)
        (folder / "steps.csv").write_bytes(b"x" * (5 << 20))
        os.utime(folder, (number, number))
    store.add_step("run-on", 1, 1, 0.0, {"loss": 1.0})
    store.commit()
    _settle(store, Retention(RetentionSettings(max_mib=16), registry, incidents))
    assert sorted(folder.name for folder in incidents.iterdir()) == ["run-on.3", "run-on.4"] or (
        sorted(folder.name for folder in incidents.iterdir())[-1] == "run-on.4"
    )
    assert "run-on" in registry.runs
    store.close()


# --- a real agent -------------------------------------------------------------------------------


def test_a_viewer_sees_that_the_state_was_damaged(
    agent: AgentProcess, begin_agent: BeginAgent
) -> None:
    """In the answer to whoever asks, for as long as the damaged file lies there; the twin sees
    nothing."""
    healthy = agent.ask(feed.Ping())
    assert isinstance(healthy, feed.Pong)
    assert healthy.troubles == []
    agent.kill()
    path = agent.home.database_path
    path.with_name(f"{path.name}-wal").unlink()  # from which it would be whole again
    path.write_bytes(os.urandom(9000))
    again = begin_agent()
    damaged = again.ask(feed.ListRuns())
    assert isinstance(damaged, feed.RunList)
    assert "was set aside" in damaged.troubles[0]
    shutil.rmtree(again.home.state)
    with FakeProbe(again.home, hello_of()) as probe:
        probe.join()
        probe.send_step(2.0)
        again.await_run(lambda run: run.step == 1)
        eventually(lambda: again.home.database_path.exists())
