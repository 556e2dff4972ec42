"""What a real agent exports, scraped over HTTP and read with Prometheus' own parser."""

from __future__ import annotations

import json
import math
import re
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from lossguard.agent.dead_man_settings import URL
from lossguard.home import Home, find_home
from tests.support.agents import AgentProcess, answering
from tests.support.ports import free_port
from tests.support.probe import FakeProbe, hello_of
from tests.support.streams import healthy_losses
from tests.support.waiting import eventually
from tests.support.web_server import WebServer

EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = {"run", "rank", "symptom", "severity", "state", "door", "target", "outcome", "what"}


class Scrape:
    """One answer. ``families`` go by the names of their samples."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            self.text = answer.read().decode()
        self.families: dict[str, Metric] = {}
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(self.text):
            suffix = "_total" if family.type == "counter" else ""
            self.families[family.name + suffix] = family
            for sample in family.samples:
                self.values[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(self, metric: str, /, **labels: str) -> float:
        """KeyError where there is none."""
        return self.values[f"lossguard_{metric}", frozenset(labels.items())]


@pytest.fixture(scope="module")
def scrape() -> Iterator[Scrape]:
    """Of an agent that hears of a run in trouble, of losses on the way, and of nonsense."""
    with (
        pytest.MonkeyPatch.context() as patch,
        WebServer() as health_check,
        tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as root,
    ):
        patch.setenv("LOSSGUARD_HOME", root)
        patch.setenv(URL, health_check.url)
        home, port = find_home(), free_port()
        with (
            answering(AgentProcess(home, "--metrics", f"127.0.0.1:{port}")),
            FakeProbe(home, hello_of(), ("loss", "grad_norm", "layer/0")) as probe,
        ):
            probe.join()
            for loss in healthy_losses(150):
                probe.send_step(loss, 1.0, 5.0)
            probe.send_step(float("nan"), 1.0, 5.0, lost=3)
            probe.raw(b"nonsense")

            def look() -> Scrape | None:
                seen = Scrape(port)
                steps = seen.values.get(("lossguard_run_step", frozenset({("run", "run-a")})))
                pinged = seen.value("dead_man_pings_total", outcome="ok")
                return seen if steps == 151 and pinged else None

            yield eventually(look)


def test_a_run_shows_how_it_does(scrape: Scrape) -> None:
    assert scrape.value("run_info", run="run-a", name="tiny", policy="guard", acts="true") == 1
    assert scrape.value("run_state", run="run-a", state="running") == 1
    assert scrape.value("run_state", run="run-a", state="died") == 0
    assert scrape.value("run_applied_updates", run="run-a") == 151
    assert scrape.value("run_ranks", run="run-a") == 1
    assert scrape.value("run_gradient_norm", run="run-a") == 1.0
    assert math.isnan(scrape.value("run_loss", run="run-a"))
    assert 2.0 < scrape.value("run_loss_limit", run="run-a") < 10.0


def test_its_trouble_is_counted_by_symptom_and_severity(scrape: Scrape) -> None:
    about = {"run": "run-a", "symptom": "nonfinite", "severity": "critical"}
    assert scrape.value("run_open_incidents", **about) == 1
    assert scrape.value("run_unacknowledged_incidents", **about) == 1
    assert scrape.value("run_incidents_total", run="run-a") == 1


def test_ranks_say_where_they_are_and_what_got_lost(scrape: Scrape) -> None:
    assert scrape.value("rank_step", run="run-a", rank="0") == 151
    assert scrape.value("rank_dropped_measurements_total", run="run-a", rank="0") == 3
    assert scrape.value("rank_silence_seconds", run="run-a", rank="0") >= 0


def test_the_agent_shows_how_it_does_itself(scrape: Scrape) -> None:
    assert scrape.value("agent_taken_messages_total", door="probes") >= 153
    assert scrape.value("agent_rejected_messages_total", door="probes") == 1
    assert scrape.value("agent_active_runs") == 1
    assert scrape.value("agent_store_failing") == 0
    assert scrape.value("agent_left_out", what="runs") == 0
    assert scrape.value("agent_process_resident_memory_bytes") > 1e6


def test_names_are_ours_and_labels_are_few(scrape: Scrape) -> None:
    """Never a layer, never a step: a month of training makes as many series as a minute."""
    assert all(name.startswith("lossguard_") for name in scrape.families)
    for name, family in scrape.families.items():
        assert family.documentation, name
        if not name.endswith("_info"):
            assert {key for s in family.samples for key in s.labels} <= LABELS, name
    assert "layer" not in scrape.text


# --- the examples speak of what there is ------------------------------------------------------


def unknown_names(expression: str, scrape: Scrape) -> set[str]:
    return set(re.findall(r"\blossguard_\w+", expression)) - set(scrape.families)


def foreign_labels(expression: str, scrape: Scrape) -> set[str]:
    """Labels that no metric has. Those of a selector are the part before the operator."""
    found = {label for inside in re.findall(r"\{([^{}]*)\}", expression)
             for label in re.findall(r"(\w+)\s*[=!]", inside)}  # fmt: skip
    for inside in re.findall(r"\b(?:by|on|group_right)\s*\(([^)]*)\)", expression):
        found |= {label.strip() for label in inside.split(",")}
    return found - LABELS - {"job"}


def test_the_alert_rules_use_what_is_exported(scrape: Scrape) -> None:
    yaml = pytest.importorskip("yaml")
    rules = yaml.safe_load((EXAMPLES / "prometheus" / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 10
    for rule in alerts:
        assert not unknown_names(rule["expr"], scrape), rule["alert"]
        assert not foreign_labels(rule["expr"], scrape), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        said = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", said)) <= LABELS


def test_the_dashboard_uses_what_is_exported(scrape: Scrape) -> None:
    dashboard = json.loads((EXAMPLES / "grafana" / "lossguard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    expressions = [t["expr"] for panel in panels for t in panel.get("targets", ())]
    expressions += [a["expr"] for a in dashboard["annotations"]["list"]]
    expressions += [v["definition"] for v in dashboard["templating"]["list"] if "definition" in v]
    assert len(expressions) > 20
    for expression in expressions:
        assert "lossguard_" in expression
        assert not unknown_names(expression, scrape), expression
        assert not foreign_labels(expression, scrape), expression
    for panel in panels:
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24


def test_a_name_that_is_not_exported_would_be_found(scrape: Scrape) -> None:
    assert unknown_names("rate(lossguard_run_lost_total[5m])", scrape)
    assert foreign_labels('lossguard_run_step{layer="3"}', scrape) == {"layer"}


# --- the address ------------------------------------------------------------------------------


def test_an_address_that_is_taken_ends_an_agent_that_was_told_to_serve_it(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        agent = AgentProcess(home, "--metrics", f"127.0.0.1:{port}")
        try:
            assert agent.process.wait(20) == 78
        finally:
            agent.stop()
    assert f"metrics cannot be served at 127.0.0.1:{port}: Address already in use" in agent.log


def test_one_in_the_settings_that_is_taken_leaves_no_run_unwatched(home: Home) -> None:
    home.config.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        home.settings_path.write_text(f'[prometheus]\nlisten = "127.0.0.1:{port}"\n')
        with answering(AgentProcess(home)) as agent, FakeProbe(home, hello_of()) as probe:
            probe.join().send_step(1.0)
            agent.await_run(lambda run: run.step == 1)
    assert agent.log.count("Address already in use") == 1
    assert "the agent goes on" in agent.log
