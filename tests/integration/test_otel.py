"""What a real agent sends to an OpenTelemetry collector, on the wire."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lossguard
from lossguard.home import find_home
from tests.support.agents import AgentProcess, answering
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.support.waiting import eventually
from tests.support.web_server import Asked, WebServer

pytest.importorskip("opentelemetry.proto.metrics.v1.metrics_pb2")

from tests.support.collector import Collected, points_of

SECRET = "glc_0000secret"


class Outcome(NamedTuple):
    """Of an agent whose collector is down at first, and that is ended at last."""

    seen: Collected
    """With all steps of the run."""
    last: Asked
    at_the_end: int
    """Messages that there were before the agent was told to end."""
    asked: list[Asked]
    elsewhere: list[Asked]
    """At the address that the environment names."""
    exit_code: int
    log: str


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    with (
        pytest.MonkeyPatch.context() as patch,
        WebServer() as collector,
        WebServer() as decoy,
        tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as root,
    ):
        patch.setenv("LOSSGUARD_HOME", root)
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", decoy.url)
        patch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{decoy.url}/v1/metrics")
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-of-environment=1")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "owner=somebody")
        patch.setenv("OTEL_SERVICE_NAME", "training")
        patch.setenv("OTEL_SDK_DISABLED", "true")
        home = find_home()
        headers = Path(root) / "headers"
        headers.touch(0o600)
        headers.write_text(f"Authorization: Bearer {SECRET}\n")
        home.config.mkdir(parents=True, exist_ok=True)
        home.settings_path.write_text(
            f'[otel]\nendpoint = "{collector.url}/v1/metrics"\ninterval_s = 1\n'
            f'headers_file = "{headers}"\n'
        )
        collector.answers.append((503, {}))
        with (
            answering(AgentProcess(home)) as agent,
            FakeProbe(home, hello_of(), ("loss", "grad_norm", "layer/0")) as probe,
        ):
            probe.join()
            for loss in healthy_losses(150):
                probe.send_step(loss, 1.0, 5.0)
            probe.send_step(2.5, 1.5, 5.0, lost=3)

            run = frozenset({("run", "run-a")})
            outage = frozenset({("outcome", "failed")})

            def look() -> Collected | None:
                seen = Collected(collector.await_asked(1)[-1].body)
                steps = seen.values.get(("lossguard.run.step", run))
                failed = seen.values.get(("lossguard.otel.exports", outage))
                return seen if steps == 151 and failed else None

            seen = eventually(look)
            at_the_end = len(collector.asked)
            exit_code = agent.stop()
        asked = list(collector.asked)
        yield Outcome(seen, asked[-1], at_the_end, asked, list(decoy.asked), exit_code, agent.log)


def test_a_run_shows_how_it_does(outcome: Outcome) -> None:
    seen = outcome.seen
    assert seen.value("run.info", run="run-a", name="tiny", policy="guard", acts="true") == 1
    assert seen.value("run.state", run="run-a", state="running") == 1
    assert seen.value("run.state", run="run-a", state="died") == 0
    assert seen.value("run.loss", run="run-a") == 2.5
    assert seen.value("run.gradient_norm", run="run-a") == 1.5
    assert seen.value("rank.dropped_measurements", run="run-a", rank="0") == 3
    assert seen.value("agent.taken_messages", door="probes") >= 152
    assert not any("layer" in str(what) for what in seen.values)


def test_kinds_and_units_are_those_of_opentelemetry(outcome: Outcome) -> None:
    metrics = outcome.seen.metrics
    assert all(name.startswith("lossguard.") for name in metrics)
    assert all(metric.description for metric in metrics.values())
    counter = metrics["lossguard.rank.dropped_measurements"]
    assert counter.unit == "{measurement}"
    assert counter.sum.is_monotonic
    assert counter.sum.aggregation_temporality == 2  # cumulative
    (point,) = points_of(counter)
    assert 0 < point.start_time_unix_nano < point.time_unix_nano
    silence = metrics["lossguard.rank.silence"]
    assert silence.unit == "s"
    assert silence.HasField("gauge")


def test_it_says_who_it_is_of(outcome: Outcome) -> None:
    resource = dict(outcome.seen.resource)
    assert socket.gethostname() in resource.pop("service.instance.id")
    assert resource == {
        "service.name": "lossguard",
        "service.version": lossguard.__version__,
        "host.name": socket.gethostname(),
    }
    assert outcome.seen.scope == "lossguard"


def test_nothing_of_the_environment_has_a_say(outcome: Outcome) -> None:
    assert outcome.elsewhere == []
    for asked in outcome.asked:
        assert (asked.method, asked.path) == ("POST", "/v1/metrics")
        assert asked.headers["content-type"] == "application/x-protobuf"
        assert asked.headers["authorization"] == f"Bearer {SECRET}"
        assert "x-of-environment" not in asked.headers


def test_an_outage_is_said_once_and_so_is_its_end(outcome: Outcome) -> None:
    assert outcome.log.count("metrics cannot be sent to") == 1
    assert "the answer is 503; it is tried again" in outcome.log
    assert outcome.log.count("/v1/metrics again") == 1
    assert outcome.seen.value("otel.exports", outcome="failed") == 1
    assert SECRET not in outcome.log


def test_the_end_is_sent_too(outcome: Outcome) -> None:
    assert outcome.exit_code == 0
    assert len(outcome.asked) > outcome.at_the_end
    assert Collected(outcome.last.body).value("run.step", run="run-a") == 151
