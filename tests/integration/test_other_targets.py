"""A real agent that tells a program and, through Apprise, whoever has a URL."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lossguard.agent.alerts.other_settings import APPRISE, KEY, URL
from lossguard.agent.alerts.secrecy import TOKEN, WEBHOOK
from lossguard.agent.cli import app
from lossguard.home import Home
from tests.support.agents import BeginAgent
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.support.waiting import eventually
from tests.support.web_server import WebServer

pytest.importorskip("apprise")
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SECRET = "whsec_" + base64.b64encode(b"a-key-of-this-test-32-bytes-long").decode()


@pytest.fixture
def server(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """Webhook and Apprise's service are one server, told apart by their paths."""
    home.config.mkdir(parents=True)
    home.settings_path.write_text("[alerts]\nkeep_firing_s = 0.5\nfor_s = 0.5\n")
    for name in (TOKEN, WEBHOOK):
        monkeypatch.delenv(name, raising=False)
    with WebServer() as server:
        monkeypatch.setenv(URL, f"{server.url}/hook/hidden-path")
        monkeypatch.setenv(KEY, SECRET)
        monkeypatch.setenv(APPRISE, f"{server.url.replace('http', 'json')}/apprise/hidden-path")
        yield server


def bodies(server: WebServer, path: str) -> list[dict[str, Any]]:
    return [json.loads(asked.body) for asked in server.asked if asked.path.startswith(path)]


def trouble(home: Home) -> None:
    """Healthy for a while, NaN for a moment, healthy again."""
    with FakeProbe(home, hello_of(policy="observe")) as probe:
        probe.join()
        good = healthy_losses(150)
        for loss in [*good[:80], *[math.nan] * 6, *good[80:]]:
            probe.send_step(loss)
        probe.bye()


def test_an_incident_is_told_once_each_way(
    home: Home, server: WebServer, begin_agent: BeginAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is gone holds up none of the others."""
    monkeypatch.setenv(APPRISE, f"xml://127.0.0.1:9/hidden-path\n{os.environ[APPRISE]}")
    agent = begin_agent()
    trouble(home)
    events = eventually(lambda: _until_resolved(server))
    assert [event["type"] for event in events] == ["incident.opened", "incident.resolved"]
    assert events[0]["data"]["run"] == "run-a"
    assert len({event["data"]["incident"] for event in events}) == 1
    notes = eventually(lambda: n if len(n := bodies(server, "/apprise")) >= 2 else None)
    assert [note["type"] for note in notes] == ["failure", "success"]
    files = [path for path in home.state.parent.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"alerts-webhook.db"}
    assert not [path for path in files if b"hidden-path" in path.read_bytes()]
    agent.stop()
    assert SECRET not in agent.log
    assert re.search(r"alerts wait: apprise-xml-\w{4} did not take it", agent.log)


def _until_resolved(server: WebServer) -> list[dict[str, Any]] | None:
    events = bodies(server, "/hook")
    return events if events and events[-1]["type"] == "incident.resolved" else None


@pytest.mark.slow
def test_what_was_not_told_before_a_kill_is_told_by_the_next_agent(
    home: Home, server: WebServer, begin_agent: BeginAgent
) -> None:
    server.answers.extend([(503, {"Retry-After": "1"})] * 50)
    first = begin_agent()
    trouble(home)
    eventually(lambda: bodies(server, "/hook"))
    first.kill()
    server.answers.clear()
    server.asked.clear()
    begin_agent()
    events = eventually(lambda: _until_resolved(server))
    assert [event["type"] for event in events].count("incident.opened") == 1


def test_notify_test_tries_all_of_them(home: Home, server: WebServer) -> None:
    done = CliRunner().invoke(app, ["notify", "test"])
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first == "webhook: 1 of 1 messages sent"
    assert second.startswith("apprise-json-")
    assert bodies(server, "/hook")[0]["type"] == "test"
    assert len(bodies(server, "/apprise")) == 1


def test_notify_test_says_of_each_what_is_wrong(
    home: Home, server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = tmp_path / "urls"
    urls.write_text("json://localhost\n")
    urls.chmod(0o644)
    with home.settings_path.open("a") as file:
        file.write(f'[apprise]\nurls_file = "{urls}"\n')
    monkeypatch.delenv(APPRISE)
    done = CliRunner().invoke(app, ["notify", "test", "--json"])
    assert done.exit_code == 78
    webhook, apprise = map(json.loads, done.stdout.splitlines())
    assert (webhook["target"], webhook["sent"], webhook["exit_code"]) == ("webhook", 1, 0)
    assert (apprise["target"], apprise["exit_code"]) == ("apprise", 78)
    assert f"chmod 600 {urls}" in apprise["why"]
