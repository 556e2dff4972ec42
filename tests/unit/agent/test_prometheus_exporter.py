"""The exporter in the agent's loop: bounded, closed to strangers, and in nobody's way."""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lossguard.agent import agent_command
from lossguard.agent.loop_lag import LoopLag
from lossguard.agent.prometheus import exporter as exporter_module
from lossguard.agent.prometheus import figures
from lossguard.agent.prometheus.exporter import Exporter
from lossguard.agent.prometheus.figures import Newest, Sources
from lossguard.agent.registry import Registry
from lossguard.agent.settings import parse_settings
from lossguard.agent.store import Store
from lossguard.errors import ConfigError
from lossguard.home import Home
from lossguard.probes import wire
from tests.support.ports import free_port
from tests.support.probe import hello_of


@pytest.fixture
def sources(store: Store) -> Sources:
    return Sources(Registry(store, lambda identity, frame: True), store, {}, LoopLag(0.25))


@pytest.fixture
def newest(sources: Sources) -> Newest:
    return Newest(lambda: figures.take(sources, {}, None))


@pytest.fixture
def serve(newest: Newest) -> Iterator[Callable[[int], Exporter]]:
    with ExitStack() as stack:

        def serve(port: int) -> Exporter:
            exporter = Exporter(f"127.0.0.1:{port}", newest, must_serve=True)
            stack.callback(exporter.close)
            return exporter

        yield serve


@pytest.fixture
def port() -> int:
    return free_port()


def ask(port: int, path: str = "/metrics", host: str = "localhost") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": f"{host}:{port}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def begin(sources: Sources, count: int, **changes: object) -> None:
    for i in range(count):
        hello = hello_of(f"run-{i}", **changes)
        sources.registry.take(b"probe", [wire.encode(hello)])


def test_the_one_page_is_served_and_no_other(serve: Callable[[int], Exporter], port: int) -> None:
    serve(port)
    status, text = ask(port)
    assert status == 200
    assert "lossguard_agent_active_runs 0.0" in text
    assert ask(port, "/")[0] == 404


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1.attacker.example", ""])
def test_a_page_of_somebody_else_cannot_read_it_through_a_browser(
    serve: Callable[[int], Exporter], port: int, host: str
) -> None:
    serve(port)
    status, text = ask(port, host=host)
    assert status == 403
    assert "lossguard_" not in text


def test_a_client_that_says_nothing_keeps_nobody_waiting(
    serve: Callable[[int], Exporter], port: int
) -> None:
    serve(port)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert ask(port)[0] == 200


def test_the_figures_are_those_of_the_last_tick(
    serve: Callable[[int], Exporter],
    port: int,
    sources: Sources,
    newest: Newest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scrape looks at nothing that the loop may be changing."""
    monkeypatch.setattr(figures, "_EVERY_S", 0.0)
    serve(port)
    begin(sources, 1)
    assert "lossguard_agent_active_runs 0.0" in ask(port)[1]
    newest.tick()
    assert "lossguard_agent_active_runs 1.0" in ask(port)[1]


def test_runs_and_ranks_are_bounded_and_what_is_left_out_is_said(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MOST_RANKS", 30)
    begin(sources, 60)
    taken = figures.take(sources, {}, None)
    assert len(taken.runs) == 50
    assert taken.left_out_runs == 10
    assert sum(len(run.ranks) for run in taken.runs) == 30
    assert taken.left_out_ranks == 20


def test_a_run_that_ended_is_shown_for_an_hour(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(sources, 2)
    bye = wire.Bye(run="run-0", rank=0, step=0, reason="finished")
    sources.registry.take(b"probe", [wire.encode(bye)])
    states = {run.run: run.state for run in figures.take(sources, {}, None).runs}
    assert states == {"run-1": "running", "run-0": "finished"}
    monkeypatch.setattr(figures, "RECENT_S", -1.0)
    assert [run.run for run in figures.take(sources, {}, None).runs] == ["run-1"]


def test_a_taken_address_is_tried_again(
    newest: Newest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter_module, "_TRY_AGAIN_S", 0.0)
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        exporter = Exporter(f"127.0.0.1:{port}", newest, must_serve=False)
        exporter.tick()
        exporter.tick()
    exporter.tick()
    try:
        assert ask(port)[0] == 200
    finally:
        exporter.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("0.0.0.0:9464", "can be reached by other hosts"),
        ("10.0.0.5:9464", "allow_remote = true"),
        ("[::]:9464", "can be reached by other hosts"),
        ("gpu-box:9464", "can be reached by other hosts"),
        ("9464", "not HOST:PORT"),
        ("127.0.0.1:0", "not HOST:PORT"),
        ("127.0.0.1:99999", "not HOST:PORT"),
        ("http://127.0.0.1:9464", "not HOST:PORT"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(home: Home, address: str, says: str) -> None:
    """In the settings with its line, and on the command line before anything is begun."""
    with pytest.raises(ConfigError, match=says) as caught:
        parse_settings(f'[prometheus]\nlisten = "{address}"\n', "agent.toml")
    assert str(caught.value).startswith("agent.toml:1: prometheus")
    with pytest.raises(ConfigError, match=says) as caught:
        agent_command.serve(
            background=False, idle_s=None, listen="", anywhere=False, metrics=address, state="",
            policy=None,
        )  # fmt: skip
    assert str(caught.value).startswith("--metrics")
    assert not home.runtime.exists()


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "localhost:9464", "[::1]:9464"])
def test_loopback_needs_no_leave(address: str) -> None:
    settings = parse_settings(f'[prometheus]\nlisten = "{address}"\n', "agent.toml")
    assert settings.prometheus.listen == address


def test_other_hosts_are_served_where_that_is_said() -> None:
    text = '[prometheus]\nlisten = "0.0.0.0:9464"\nallow_remote = true\n'
    assert parse_settings(text, "agent.toml").prometheus.allow_remote


def test_what_holds_the_loop_up_shows_for_a_minute() -> None:
    lag = LoopLag(0.25)
    for now in (0.0, 0.25, 0.5, 3.75, 4.0):
        lag.note(now)
    assert lag.turns == 5
    assert lag.worst_s(4.0) == 3.0
    assert lag.worst_s(64.0) == 0.0
