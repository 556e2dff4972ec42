"""How the server is asked for, and where it listens."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lossguard.agent import feed
from lossguard.errors import ConfigError, UsageError
from lossguard.home import Home
from lossguard.tui.source import LiveSource
from lossguard.tui.web import serving
from lossguard.tui.web.gate import Gate
from lossguard.tui.web.shown_app import LookingSource, PipeDriver
from tests.tui_web.web_server import WebServer


def test_it_listens_on_this_host_alone(server: WebServer) -> None:
    """One socket, at 127.0.0.1."""
    listening = [
        found.laddr
        for found in psutil.Process(server.process.pid).net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    ]
    assert [f"{address.ip}:{address.port}" for address in listening] == [server.host]


def test_a_port_that_is_taken_is_named() -> None:
    """The sentence says what to do."""
    pytest.importorskip("textual_serve")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} .*without --port"):
            serving.serve("", list, port=port)


def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else is tried."""
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lossguard\[web\]'"):
        serving.serve("", list)


@pytest.mark.parametrize(("operator", "says"), [(False, "read-only"), (True, "may act")])
def test_the_line_says_what_the_link_allows(
    operator: bool, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people, and for scripts."""
    gate = Gate(8123)
    serving._announce(gate, operator, False)
    line = capsys.readouterr().out
    assert line.startswith("http://127.0.0.1:8123/?token=")
    assert says in line
    serving._announce(gate, operator, True)
    told = json.loads(capsys.readouterr().out)
    assert told["operator"] is operator
    assert told["url"].startswith("http://127.0.0.1:8123/?token=")


def test_a_source_that_looks_on_lets_no_order_out(web_home: Home) -> None:
    """Whatever the app may send; questions pass."""
    order = feed.SendCommand(run="r", command="c", action="stop")
    question = feed.TellIncident(run="r", incident="i")
    looking, acting = LookingSource(home=web_home), LiveSource(home=web_home)
    for source in (looking, acting):
        source.send(order)
        source.send(question)
    assert list(looking._questions) == [question]
    assert list(acting._questions) == [order, question]


def test_files_stay_here_and_the_app_says_so() -> None:
    """The palette offers a screenshot; nobody would ever fetch it."""
    told: list[str] = []
    app = SimpleNamespace(notify=lambda text, severity: told.append(text))
    driver: Any = SimpleNamespace(_app=app)
    picture = io.BytesIO(b"<svg/>")
    PipeDriver.deliver_binary(driver, picture, delivery_key="k", save_path=Path("x.svg"))
    assert picture.closed
    assert "in a terminal" in told[0]
