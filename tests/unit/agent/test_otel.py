"""Metrics to a collector: the same as for Prometheus, in nobody's way, and closed about secrets."""

from __future__ import annotations

import logging
import math
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from lossguard.agent import otel
from lossguard.agent.dead_man import PingState
from lossguard.agent.loop_lag import LoopLag
from lossguard.agent.otel import sender as sender_module
from lossguard.agent.otel.sender import Sender, SendingState
from lossguard.agent.otel.settings import HEADERS, OtelSettings
from lossguard.agent.outlets import OutletOptions, Outlets
from lossguard.agent.prometheus.families import Families
from lossguard.agent.prometheus.figures import (
    VALUES,
    DoorFigures,
    Figures,
    RankFigures,
    RunFigures,
    Sources,
)
from lossguard.agent.registry import Registry
from lossguard.agent.settings import parse_settings
from lossguard.agent.store import Store
from lossguard.errors import ConfigError
from tests.support.waiting import eventually
from tests.support.web_server import WebServer

pytest.importorskip("opentelemetry.proto.metrics.v1.metrics_pb2")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from lossguard.agent.otel.message import encode
from tests.support.collector import Collected

_RUN = RunFigures(
    run="run-a", name="tiny", policy="guard", acts=True, state="running", started_s=1.5,
    step=7, applied=6, steps_per_s=2.5, world_size=2, num_ranks=2, dropped=3, actions=4,
    incidents=5, open={("nonfinite", "critical"): 1}, calling={("nonfinite", "critical"): 1},
    values={key: i + 0.25 for i, key in enumerate(VALUES)},
    limits={"loss": 9.0, "grad_norm": 8.0}, ranks=(RankFigures(0, 7, 1, 990.0),),
)  # fmt: skip
_FIGURES = Figures(
    taken_s=0.0, runs=(_RUN,), active_runs=1, left_out_runs=2, left_out_ranks=3,
    doors=(DoorFigures("probes", 1, 2, 3, 4),), turns=11, lag_s=0.5, store_failing=True,
    store_waiting=6, alerts={}, dead_man=PingState(1, 2, 3, 4.0), otel=SendingState(5, 6, 7.0),
)  # fmt: skip


def collected(figures: Figures) -> Collected:
    return Collected(encode(figures, [("service.name", "lossguard")], 1))


# --- the message ------------------------------------------------------------------------------


def test_what_prometheus_reads_and_what_a_collector_gets_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All values with all labels; and the names differ by dots, unit and ``_total`` only."""
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families(lambda: _FIGURES))
    scraped = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    sent = collected(_FIGURES)
    units = {"s": "_seconds", "By": "_bytes", "1": "_ratio", "Cel": "_celsius", "W": "_watts"}
    translated = {}
    for (name, labels), value in sent.values.items():
        metric = sent.metrics[name]
        plain = name.replace(".", "_")
        unit = units.get(metric.unit, "")
        plain += unit if not plain.endswith(unit) else ""
        translated[plain + "_total" * metric.HasField("sum"), labels] = value
    assert translated == scraped
    assert len(scraped) > 50


@pytest.mark.parametrize(
    ("name", "unit", "value"),
    [
        ("run.start_time", "s", 1.5),
        ("run.steps_per_second", "", 2.5),
        ("run.loss", "", 0.25),
        ("run.step_seconds", "s", 5.25),
        ("run.resident_memory", "By", 7.25),
        ("run.device_utilization", "1", 10.25),
        ("run.device_temperature", "Cel", 11.25),
        ("run.device_power", "W", 12.25),
        ("run.incidents", "{incident}", 5.0),
    ],
)
def test_units_stand_beside_the_name(name: str, unit: str, value: float) -> None:
    sent = collected(_FIGURES)
    assert sent.metrics[f"lossguard.{name}"].unit == unit
    assert sent.value(name, run="run-a") == value


def test_a_loss_that_is_no_number_is_sent_as_such() -> None:
    run = _RUN._replace(values={"loss": math.nan, "grad_norm": math.inf})
    sent = collected(_FIGURES._replace(runs=(run,)))
    assert math.isnan(sent.value("run.loss", run="run-a"))
    assert sent.value("run.gradient_norm", run="run-a") == math.inf
    assert "lossguard.run.validation_loss" not in sent.metrics


def test_a_run_that_is_forgotten_takes_its_series_along() -> None:
    for i in range(3):
        last = collected(_FIGURES._replace(runs=(_RUN._replace(run=f"run-{i}"),)))
    runs = {dict(labels)["run"] for _, labels in last.values if "run" in dict(labels)}
    assert runs == {"run-2"}


# --- the sender -------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def send(server: WebServer) -> Iterator[Callable[..., Sender]]:
    """Begins a sender, a hundred times a second, to the server or elsewhere."""
    with ExitStack() as stack:

        def send(endpoint: str = "", headers_file: str = "") -> Sender:
            endpoint = endpoint or f"{server.url}/v1/metrics"
            settings = OtelSettings(endpoint=endpoint, headers_file=headers_file, interval_s=0.01)
            sender = Sender(settings, lambda: _FIGURES)
            stack.callback(sender.close)
            return sender

        yield send


def test_an_outage_is_said_once_and_so_is_its_end(
    server: WebServer, send: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.answers.extend([(200, {}), *[(500, {})] * 5])
    sender = send()
    eventually(lambda: sender.state.succeeded >= 3)
    sender.close()
    assert sender.state.failed == 5
    assert sender.state.last_success_s > 0
    where = f"{server.url}/v1/metrics"
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", f"metrics are sent to {where}"),
        ("ERROR", f"metrics cannot be sent to {where}: the answer is 500; it is tried again"),
        ("INFO", f"metrics are sent to {where} again"),
    ]


def test_a_collector_that_takes_a_part_is_not_well(
    server: WebServer, send: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = 3
    server.body = answer.SerializeToString()  # type: ignore[no-untyped-call]
    server.answers.append((200, {"Content-Type": "application/x-protobuf"}))
    sender = send()
    eventually(lambda: sender.state.succeeded >= 1)
    sender.close()
    assert sender.state.failed == 1
    assert "3 points were rejected; it is tried again" in caplog.text


def test_what_another_kind_of_server_says_is_of_no_matter(
    server: WebServer, send: Callable[..., Sender]
) -> None:
    server.body = b"ok"
    server.answers.append((200, {"Content-Type": "text/plain"}))
    sender = send()
    eventually(lambda: sender.state.succeeded >= 1)
    sender.close()
    assert sender.state.failed == 0


def test_one_that_never_answers_does_not_hold_up_the_end(
    send: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "_LAST_WORD_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        sender = send(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/metrics")
        connection, _ = deaf.accept()
        sender.close()
        assert sender._thread.is_alive()
        assert sender._thread.daemon
        connection.close()
    eventually(lambda: not sender._thread.is_alive())


# --- secrets ----------------------------------------------------------------------------------


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    file = tmp_path / "headers"
    file.touch(0o600)
    file.write_text("# of the project\nAuthorization: Bearer secret-1\n\nX-Scope-OrgID: ours\n")
    return file


def test_headers_are_sent_and_not_said(
    server: WebServer,
    send: Callable[..., Sender],
    headers: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever goes wrong: it redirects, it is refused; and no redirect is followed."""
    caplog.set_level(logging.DEBUG)
    server.answers.extend([(302, {"Location": f"{server.url}/elsewhere"}), (401, {})])
    sender = send(headers_file=str(headers))
    eventually(lambda: sender.state.succeeded)
    sender.close()
    assert {one.path for one in server.asked} == {"/v1/metrics"}
    assert server.asked[0].headers["authorization"] == "Bearer secret-1"
    assert server.asked[0].headers["x-scope-orgid"] == "ours"
    assert "the answer is 302" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("line", ["secret-1", "Authorization secret-1", "X: s\u00e9cret-secret-1"])
def test_a_line_that_is_no_header_is_said_by_its_number(
    line: str, send: Callable[..., Sender], headers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    headers.write_text(f"# of the project\n{line}\n")
    sender = send(headers_file=str(headers))
    eventually(lambda: sender.state.failed)
    sender.close()
    assert f"line 2 of {HEADERS} or [otel] headers_file is no header" in caplog.text
    assert "secret-1" not in caplog.text


def test_nobody_there_is_said_without_the_headers(
    send: Callable[..., Sender], headers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sender = send(f"http://127.0.0.1:{port}/v1/metrics", headers_file=str(headers))
    eventually(lambda: sender.state.failed)
    sender.close()
    assert "Connection refused" in caplog.text
    assert "secret" not in caplog.text


def test_a_file_that_others_may_read_is_refused_until_they_may_not(
    server: WebServer,
    send: Callable[..., Sender],
    headers: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers.chmod(0o644)
    sender = send(headers_file=str(headers))
    eventually(lambda: sender.state.failed)
    assert not server.asked
    assert f"chmod 600 {headers}" in caplog.text
    headers.chmod(0o600)
    assert server.await_asked(1)[0].headers["authorization"] == "Bearer secret-1"


# --- what it needs ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_installed", [True, False])
def test_without_the_extra_the_agent_goes_on_and_says_what_to_install(
    is_installed: bool,
    server: WebServer,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not is_installed:
        monkeypatch.delattr(otel, "message")
        monkeypatch.delitem(sys.modules, "lossguard.agent.otel.message")
        monkeypatch.setitem(sys.modules, "opentelemetry.proto.common.v1.common_pb2", None)
    sources = Sources(Registry(store, lambda identity, frame: True), store, {}, LoopLag(0.25))
    settings = OtelSettings(endpoint=f"{server.url}/v1/metrics")
    outlets = Outlets(OutletOptions(otel=settings), sources, None)
    outlets.tick()
    outlets.close()
    assert outlets.are_open == is_installed
    assert bool(server.asked) == is_installed
    assert ("pip install 'lossguard[otel]'" in caplog.text) != is_installed


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('endpoint = "http://collector.example:4318/v1/metrics"', "in the clear"),
        ('endpoint = "http://10.0.0.5:4318/v1/metrics"', "allow_plain = true"),
        ('endpoint = "127.0.0.1:4318"', "no http or https URL"),
        ('endpoint = "grpc://127.0.0.1:4317/v1/metrics"', "no http or https URL"),
        ('endpoint = "https://[::1/v1/metrics"', "no URL"),
        ('endpoint = "https://collector.example:4318"', "names no path"),
        ('endpoint = "https://me:hunter2@collector.example/v1/metrics"', "into headers_file"),
        ('endpoint = "https://collector.example/v1/metrics?key=hunter2"', "into headers_file"),
        ("interval_s = 0.5", "interval_s"),
        ('headers = "Authorization: hunter2"', "did you mean 'headers_file'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(line: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(f"[otel]\n{line}\n", "agent.toml")
    assert says in str(caught.value)
    assert str(caught.value).startswith("agent.toml:")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        'endpoint = "https://collector.example/otlp/v1/metrics"',
        'endpoint = "http://127.0.0.1:4318/v1/metrics"',
        'endpoint = "http://[::1]:4318/v1/metrics"',
        'endpoint = "http://collector.example:4318/v1/metrics"\nallow_plain = true',
    ],
)
def test_settings_that_make_sense_are_taken(lines: str) -> None:
    assert parse_settings(f"[otel]\n{lines}\n", "agent.toml").otel.endpoint in lines
