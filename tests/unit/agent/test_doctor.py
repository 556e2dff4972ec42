"""``lossguard doctor``: all well in a healthy home, and what to type in one that is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner

from lossguard.agent import doctor_checks
from lossguard.agent.alerts import trial
from lossguard.agent.alerts.secrecy import TOKEN
from lossguard.agent.alerts.trial import Trial
from lossguard.agent.cli import app
from lossguard.agent.doctor_checks import Finding, findings
from lossguard.agent.feed import Pong
from lossguard.agent.keyring import Keyring
from lossguard.agent.store import Store
from lossguard.errors import ExitCode
from lossguard.home import Home
from lossguard.probes import launch


def said(home: Home) -> dict[str, Finding]:
    """The worst of each check."""
    worst: dict[str, Finding] = {}
    for one in sorted(findings(home), key=lambda one: ("ok", "warn", "fail").index(one.status)):
        worst[one.check] = one
    return worst


@pytest.fixture
def used(home: Home) -> Home:
    """A home with a database, keys and settings."""
    home.create()
    Store(home.database_path).close()
    ring = Keyring(home)
    ring.init()
    ring.add("a", "viewer", home.config / "a.key")
    home.settings_path.write_text('[listen]\ntcp = "tcp://127.0.0.1:7700"\n')
    return home


def test_nothing_ails_a_healthy_home(used: Home) -> None:
    """Nor one that has never been used; neither is changed by looking."""
    before = sorted(used.state.parent.rglob("*"))
    found = said(used)
    assert {one.check for one in found.values() if one.status == "fail"} == set()
    assert {"database", "agent", "keys", "listen", "libzmq", "disk", "clock"} <= set(found)
    assert sorted(used.state.parent.rglob("*")) == before
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_a_home_that_has_never_been_used_is_well(home: Home) -> None:
    assert {one.status for one in findings(home)} <= {"ok", "warn"}
    assert not home.state.exists()


def open_to_others(home: Home) -> None:
    (home.keys_path / "agent.key").chmod(0o644)


def reach_in(home: Home) -> None:
    home.runtime.chmod(0o755)


def somebody_elses(home: Home) -> None:
    os.chown(home.state, 65534, 65534)


def damage(home: Home) -> None:
    home.database_path.write_bytes(b"SQLite format 3\0" + b"x" * 4096)


def misspell(home: Home) -> None:
    home.settings_path.write_text("[listen]\ntpc = 1\n")


def open_wide(home: Home) -> None:
    home.settings_path.write_text('[listen]\ntcp = "tcp://0.0.0.0:1"\n')


AILMENTS: dict[Callable[[Home], None], tuple[str, str]] = {
    open_to_others: ("keys", "chmod 600"),
    reach_in: ("runtime folder", "chmod 700"),
    damage: ("database", "lossguard agent --stop"),
    misspell: ("settings", "agent.toml"),
    open_wide: ("listen", "agent.toml"),
}


@pytest.mark.parametrize("ailment", AILMENTS, ids=lambda ailment: ailment.__name__)
def test_what_is_wrong_fails_with_what_to_type(used: Home, ailment: Callable[[Home], None]) -> None:
    """As a line, as JSON, and as an exit code for scripts."""
    ailment(used)
    check, typed = AILMENTS[ailment]
    ran = CliRunner().invoke(app, ["doctor", "--json"])
    assert ran.exit_code == 1
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    (failed,) = [one for one in lines if one["status"] == "fail" and one["check"] == check]
    assert typed in failed["do"] + failed["said"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_fails(used: Home) -> None:
    somebody_elses(used)
    assert said(used)["state folder"].status == "fail"


def test_an_agent_that_holds_its_lock_and_does_not_answer_fails(
    used: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be stopped, or stuck."""
    monkeypatch.setattr(doctor_checks, "is_running", lambda home: True)
    monkeypatch.setattr(doctor_checks, "AGENT_ANSWERS_S", 0.1)
    assert not launch.agent_is_running(used)
    assert said(used)["agent"].status == "fail"


def test_little_disk_warns_and_none_fails(used: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(amount: int) -> str:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(amount))
        return said(used)["disk"].status

    assert [free(1 << 20), free(500 << 20), free(1 << 40)] == ["fail", "warn", "ok"]


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_library_without_curve_warns(used: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It matters to those who serve other hosts, and there it fails."""
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    found = said(used)
    assert (found["libzmq"].status, found["listen"].status) == ("warn", "fail")


def test_a_check_that_fails_in_itself_is_said(used: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are made all the same."""

    def broken(home: Home) -> object:
        raise PermissionError("no")

    monkeypatch.setattr(doctor_checks, "CHECKS", [broken, *doctor_checks.CHECKS])
    found = said(used)
    assert found["broken"].status == "fail"
    assert found["database"].status == "ok"


def test_a_key_file_that_others_can_read_is_named(
    used: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the agent that it should open; nobody listens there either."""
    file = used.config / "a.key"
    monkeypatch.setenv("LOSSGUARD_AGENT", "tcp://127.0.0.1:1")
    monkeypatch.setenv("LOSSGUARD_KEY_FILE", str(file))
    file.chmod(0o640)
    ran = CliRunner().invoke(app, ["doctor"])
    assert ran.exit_code == 1
    assert f"type: chmod 600 {file}" in ran.stdout


def test_an_agent_that_began_with_other_settings_tells_nobody_and_that_is_said(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that only this shell knows is of no use to the agent that runs."""
    deaf = Pong(agent_pid=7, version="0")
    assert doctor_checks.untold(home, deaf) == ""
    monkeypatch.setenv(TOKEN, "xoxb-1")
    said = doctor_checks.untold(home, deaf)
    assert "agent 7 does not tell slack" in said
    assert "xoxb" not in said
    assert doctor_checks.untold(home, Pong(agent_pid=7, version="0", alerts={"slack": ""})) == ""


def test_a_trial_that_arrives_is_no_success_where_the_agent_would_not_send_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = Trial("slack", 2, 2, "", ExitCode.OK)
    monkeypatch.setattr(trial, "send_trials", lambda home: [arrived])
    assert CliRunner().invoke(app, ["notify", "test"]).exit_code == 0
    monkeypatch.setattr(doctor_checks, "untold_by_agent", lambda home: "agent 7 does not tell it")
    ran = CliRunner().invoke(app, ["notify", "test"])
    assert ran.exit_code == 78
    assert "agent 7 does not tell it; type: lossguard agent --stop" in ran.output


def test_a_home_that_cannot_be_made_fails(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not called well because it is not there yet."""
    monkeypatch.setattr(os, "access", lambda path, mode: path.is_relative_to(home.state))
    assert said(home)["state folder"].status == "fail"
