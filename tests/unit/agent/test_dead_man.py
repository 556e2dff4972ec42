"""A health check hears of the agent while its loop is alive, and of nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.agent.dead_man import DeadMan
from lossguard.agent.dead_man_settings import URL, DeadManSettings
from lossguard.agent.settings import parse_settings
from lossguard.errors import ConfigError
from tests.support.waiting import eventually
from tests.support.web_server import WebServer

_OFTEN = DeadManSettings(interval_s=0.01)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with WebServer() as server:
        monkeypatch.setenv(URL, f"{server.url}/ping/0000-secret")
        yield server


def test_an_agent_that_is_well_pings_again_and_again(server: WebServer) -> None:
    dead_man = DeadMan(_OFTEN)
    asked = server.await_asked(3)
    eventually(lambda: dead_man.state.succeeded >= 3)
    dead_man.close()
    assert {(one.method, one.path) for one in asked} == {("GET", "/ping/0000-secret")}
    assert dead_man.state.failed == dead_man.state.withheld == 0
    assert dead_man.state.last_success_s > 0


def test_a_loop_that_stands_still_is_not_called_alive(server: WebServer) -> None:
    now = [0.0]
    dead_man = DeadMan(_OFTEN, clock=lambda: now[0])
    server.await_asked(1)
    now[0] = 31.0
    eventually(lambda: dead_man.state.withheld >= 1)
    before = len(server.asked)
    eventually(lambda: dead_man.state.withheld >= 10)
    assert len(server.asked) == before
    dead_man.tick()
    server.await_asked(before + 1)
    dead_man.close()


def test_an_outage_is_said_once_and_so_is_its_end(
    server: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.answers.extend([(500, {})] * 5)
    dead_man = DeadMan(_OFTEN)
    eventually(lambda: dead_man.state.succeeded >= 2)
    dead_man.close()
    assert dead_man.state.failed == 5
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", "the dead man's switch cannot be pinged: the answer is 500; it is tried again"),
        ("INFO", "the dead man's switch is pinged again"),
    ]


def test_the_url_is_a_secret(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong: nobody listens there, it redirects, it is no URL."""
    server.answers.append((302, {"Location": f"{server.url}/elsewhere"}))
    dead_man = DeadMan(_OFTEN)
    eventually(lambda: dead_man.state.succeeded)
    dead_man.close()
    assert "the answer is 302" in caplog.text
    assert all(one.path == "/ping/0000-secret" for one in server.asked)
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/secret", "http://health.example/secret", "secret", "https://[::secret"],
)
def test_a_url_that_cannot_be_used_is_said_without_it(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(URL, url)
    dead_man = DeadMan(_OFTEN)
    eventually(lambda: dead_man.state.failed)
    dead_man.close()
    assert "cannot be pinged" in caplog.text
    assert "secret" not in caplog.text


def test_a_file_that_others_may_read_is_refused_until_they_may_not(
    server: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "url"
    file.write_text(f"{server.url}/of-file\n")
    file.chmod(0o644)
    monkeypatch.delenv(URL)
    dead_man = DeadMan(DeadManSettings(url_file=str(file), interval_s=0.01))
    eventually(lambda: dead_man.state.failed)
    assert not server.asked
    assert f"chmod 600 {file}" in caplog.text
    file.chmod(0o600)
    assert server.await_asked(1)[0].path == "/of-file"
    dead_man.close()


@pytest.mark.parametrize("interval", ["0.5", "1e6", '"often"'])
def test_an_interval_that_makes_no_sense_is_refused(interval: str) -> None:
    with pytest.raises(ConfigError, match=r"dead_man\.interval_s"):
        parse_settings(f"[dead_man]\ninterval_s = {interval}\n", "agent.toml")
