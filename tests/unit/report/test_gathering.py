"""What a report knows of a run, from the database alone."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import pytest

from lossguard.agent.history import MetricHistory
from lossguard.agent.report.gathering import RunData, gather
from lossguard.errors import InputError
from lossguard.home import Home
from tests.support.kept_runs import RUN, add_incident, add_run, add_steps, incident, troubled


def gathered(home: Home, run: str = "") -> RunData:
    return gather(home, run, lambda share: None)


def test_a_run_is_found_by_id_prefix_name_and_as_the_newest(
    home: Home, database: sqlite3.Connection
) -> None:
    """As everywhere else on the command line."""
    add_run(database, "old-1", name="old", started_s=1.0)
    add_run(database, "new-1", name="new", started_s=2.0)
    for name, expected in {"old-1": "old-1", "old": "old-1", "ol": "old-1", "": "new-1"}.items():
        assert gathered(home, name).hello.run == expected


def test_an_unknown_run_and_no_runs_at_all_are_clear_errors(
    home: Home, database: sqlite3.Connection
) -> None:
    """They name what there is."""
    with pytest.raises(InputError, match="no runs in"):
        gathered(home)
    add_run(database)
    with pytest.raises(InputError, match=f"there is no run 'nonsense'.*{RUN}"):
        gathered(home, "nonsense")


def test_without_a_database_the_error_says_how_to_get_one(home: Home) -> None:
    """And none is made by asking."""
    with pytest.raises(InputError, match="no runs yet"):
        gathered(home)
    assert not home.database_path.exists()


def test_it_reads_while_somebody_writes_and_writes_nothing(
    home: Home, database: sqlite3.Connection
) -> None:
    """The writer is within a transaction; what it has committed is read, and it goes on."""
    add_run(database)
    add_steps(database, [(1, {"loss": 2.0})])
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE runs SET state = 'died'")
    data = gathered(home)
    database.commit()
    assert data.state == "finished"
    assert data.extent.count == 1
    assert gathered(home).state == "died"


def test_what_a_killed_agent_had_committed_is_read(home: Home) -> None:
    """Its last transactions lie in the log beside the file."""
    killed = (
        "import os; from lossguard.home import find_home\n"
        "from lossguard.agent.database import open_database\n"
        "from tests.support.kept_runs import troubled\n"
        "troubled(open_database(find_home().database_path)); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed], check=False, timeout=60)
    assert gathered(home).extent.last == 300


def test_a_run_that_an_agent_left_running_is_gone_when_its_process_is(
    home: Home, database: sqlite3.Connection
) -> None:
    """And is running while it is there."""
    add_run(database, "here", state="running", pid=os.getpid(), started_s=4e9)
    assert gathered(home, "here").state == "running"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    add_run(database, "gone", state="running", pid=ended.pid)
    assert gathered(home, "gone").state == "gone"


def test_damaged_rows_are_counted_and_all_others_are_read(
    home: Home, database: sqlite3.Connection
) -> None:
    """Steps, incidents, commands and the saved state."""
    troubled(database)
    database.execute("UPDATE steps SET metrics = x'c1c1' WHERE step = 7")
    database.execute("UPDATE incidents SET body = x'ff' WHERE number = 2")
    database.execute("UPDATE commands SET body = x'00'")
    database.execute("UPDATE runs SET saved = x'c1'")
    database.commit()
    data = gathered(home)
    assert data.damaged == {"steps": 1, "incidents": 1, "commands": 1, "saved states": 1}
    assert data.curves["loss"].count == 299
    assert len(data.incidents) == 1


def test_one_part_of_the_saved_state_that_makes_no_sense_leaves_the_others(
    home: Home, database: sqlite3.Connection
) -> None:
    """Another version may have written it."""
    add_run(database, saved={"layers": {"grad_norm": {}}, "rollbacks": [[5, 2]], "events": 7})
    add_steps(database, [(1, {"loss": 2.0})])
    data = gathered(home)
    assert data.saved.rollbacks == [(5, 2)]
    assert data.damaged == {"saved layers": 1, "saved events": 1}


def test_steps_that_are_no_longer_kept_come_from_the_coarse_history(
    home: Home, database: sqlite3.Connection
) -> None:
    """The whole run is shown, its beginning too; what is kept to the step is exact."""
    history = MetricHistory()
    for step in range(1, 1001):
        history.add(step, 9.0 if step == 10 else 1.0)
    add_run(database, saved={"histories": {"loss": history.state()}})
    add_steps(database, ((step, {"loss": 1.0}) for step in range(501, 1001)))
    data = gathered(home)
    assert (data.extent.first, data.extent.coarse_until) == (1, 501)
    assert data.curves["loss"].highest == (10, 9.0)


def test_skips_count_but_for_those_of_the_grad_scaler(
    home: Home, database: sqlite3.Connection
) -> None:
    """An overflow of GradScaler is its normal life."""
    add_run(database)
    codes = {3: 2.0, 5: 16.0, 6: 18.0, 7: 1.0}
    add_steps(database, ((s, {"loss": 1.0, "skipped": codes.get(s, 0.0)}) for s in range(1, 10)))
    assert gathered(home).extent.skips == [3, 7]


def test_an_incident_whose_id_is_a_path_opens_no_file_elsewhere(
    home: Home, database: sqlite3.Connection
) -> None:
    """Ids come from training processes."""
    secret = home.state / "secret"
    secret.mkdir()
    (secret / "stacks.txt").write_text("secret")
    (home.state / "incidents").mkdir()
    add_run(database)
    add_incident(database, incident(id="../secret.1"))
    (home.state / "secret.1").mkdir()
    (home.state / "secret.1" / "stacks.txt").write_text("secret")
    assert gathered(home).bundles["../secret.1"].texts == ()
