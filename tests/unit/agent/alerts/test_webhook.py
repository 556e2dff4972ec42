"""Events for programs: what they say, how they are signed, what becomes of refusals."""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lossguard.agent.alerts.events import event_of
from lossguard.agent.alerts.other_settings import KEY, URL, WebhookSettings
from lossguard.agent.alerts.records import Root, Saying
from lossguard.agent.alerts.transport import Never, NotNow
from lossguard.agent.alerts.webhook import Webhook
from lossguard.agent.settings import parse_settings
from lossguard.errors import ConfigError
from tests.support.incidents_told import NOON, DeskAt, a_run, changed, deed, incident, resolved
from tests.support.web_server import WebServer

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with WebServer() as server:
        monkeypatch.setenv(URL, f"{server.url}/hook/0000-hidden")
        monkeypatch.setenv(KEY, SECRET)
        yield server


@pytest.fixture
def webhook() -> Webhook:
    return Webhook(WebhookSettings())


def a_root(**changes: Any) -> Root:
    """As the desk says it."""
    (root,) = (s for s in DeskAt().hear(incident(**changes)) if isinstance(s, Root))
    return root


def verified(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> Any:
    """The event. Raises ValueError for what is not from Lossguard, or was sent long ago."""
    name, moment = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(now - int(moment)) > 300:
        raise ValueError("too old")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{name}.{moment}.".encode() + body, hashlib.sha256)
    good = "v1," + base64.b64encode(mac.digest()).decode()
    given = headers["webhook-signature"].split()
    if not any(hmac.compare_digest(good, signature) for signature in given):
        raise ValueError("not signed with this key")
    return json.loads(body)


def events(said: list[Saying]) -> list[dict[str, Any]]:
    return [json.loads(body) for saying in said if (body := event_of(saying, NOON))]


def test_the_life_of_an_incident_is_a_few_events(server: WebServer) -> None:
    """A root message brought up to date, details and pictures are none."""
    desk, trouble = DeskAt(), incident()
    desk.hear(trouble)
    desk.wait(60.0)
    acted = changed(trouble, actions=[deed()])
    desk.hear(acted)
    desk.hear(resolved(acted))
    desk.wait(120.0)
    seen = events(desk.said)
    assert [e["type"] for e in seen] == ["incident.opened", "incident.action", "incident.resolved"]
    assert seen[0]["timestamp"].startswith("2025-06-15T12:00:00")
    first, second, last = (event["data"] for event in seen)
    assert (first["run"], first["incident"], first["symptom"]) == ("run-a", "run-a.1", "divergence")
    assert (first["state"], first["onset_step"], first["opened"]) == ("open", 90, NOON)
    assert first["measured"] == {"value": 8.3, "low": 2.0, "high": 2.4}
    assert second["new_actions"][0]["action"] == "rollback"
    assert (last["state"], last["severity_at_most"]) == ("resolved", "critical")
    assert last["ended"] > last["opened"]


def test_a_warning_that_gets_worse_says_so() -> None:
    desk, trouble = DeskAt(), incident(severity="warning")
    desk.hear(trouble)
    desk.wait(30.0)
    desk.hear(changed(trouble, severity="critical"))
    assert [e["type"] for e in events(desk.said)] == ["incident.opened", "incident.escalated"]


def test_runs_and_digests_are_events_too() -> None:
    desk = DeskAt(run_started=True)
    desk.hear(a_run(), incident(severity="info"))
    desk.wait(21_600.0)
    assert [e["type"] for e in events(desk.said)] == ["run.started", "digest"]


def test_what_is_not_finite_is_null_and_secrets_are_gone() -> None:
    text = event_of(a_root(evidence={"after": math.nan}, message="see xoxb-12345-abcde"), NOON)
    data = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["data"]
    assert data["evidence"] == {"after": None}
    assert "xoxb" not in text


def test_a_receiver_can_tell_that_it_is_from_us_and_new(
    server: WebServer, webhook: Webhook
) -> None:
    post = webhook.render(a_root(), NOON)
    assert post is not None
    webhook.deliver(post, "", None)
    (asked,) = server.asked
    now = float(asked.headers["webhook-timestamp"])
    assert asked.method == "POST"
    assert asked.headers["content-type"] == "application/json"
    assert verified(asked.headers, asked.body, SECRET, now)["data"]["run"] == "run-a"
    with pytest.raises(ValueError, match="too old"):
        verified(asked.headers, asked.body, SECRET, now + 301)
    with pytest.raises(ValueError, match="not signed"):
        verified(asked.headers, asked.body.replace(b"run-a", b"run-b"), SECRET, now)
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    with pytest.raises(ValueError, match="not signed"):
        verified(asked.headers, asked.body, other, now)


def test_the_docs_show_receivers_what_is_tested_here() -> None:
    page = (Path(__file__).parents[4] / "docs" / "alerts.md").read_text()
    assert inspect.getsource(verified) in page


def test_an_event_keeps_its_id_however_often_it_is_sent(
    server: WebServer, webhook: Webhook
) -> None:
    for post in [webhook.render(a_root(), NOON)] * 2 + [webhook.render(a_root(), NOON + 1)]:
        assert post is not None
        webhook.deliver(post, "", None)
    first, again, other = (asked.headers["webhook-id"] for asked in server.asked)
    assert first == again != other


@pytest.mark.parametrize(
    ("status", "headers", "is_setup", "after_s"),
    [
        (500, {}, False, None),
        (503, {"Retry-After": "17"}, False, 17.0),
        (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, False, None),
        (401, {}, True, 300.0),
        (404, {}, True, 300.0),
        (302, {"Location": "/elsewhere"}, True, 300.0),
    ],
)
def test_a_refusal_that_may_pass_is_waited_for(
    server: WebServer, webhook: Webhook, status: int, headers: dict[str, str], is_setup: bool,
    after_s: float | None,
) -> None:  # fmt: skip
    server.answers.append((status, headers))
    with pytest.raises(NotNow, match=str(status)) as caught:
        webhook.deliver(webhook.trial(NOON), "", None)
    assert (caught.value.is_setup, caught.value.after_s) == (is_setup, after_s)
    assert len(server.asked) == 1, "a redirect is not followed"


def test_one_that_will_not_pass_is_not(server: WebServer, webhook: Webhook) -> None:
    server.answers.append((400, {}))
    with pytest.raises(Never, match="400"):
        webhook.deliver(webhook.trial(NOON), "", None)


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("", SECRET, "no https address"),
        ("http://hooks.example/hidden", SECRET, "no https address"),
        ("https://[::hidden", SECRET, "is no URL"),
        ("https://hooks.example/hidden", "", "openssl rand"),
        ("https://hooks.example/hidden", "whsec_hidden", "openssl rand"),
        ("https://hooks.example/hidden", SECRET.removeprefix("whsec_"), "openssl rand"),
    ],
)
def test_what_is_wrong_with_the_setup_is_said_without_the_secrets(
    monkeypatch: pytest.MonkeyPatch, webhook: Webhook, url: str, key: str, says: str
) -> None:
    monkeypatch.setenv(URL, url)
    monkeypatch.setenv(KEY, key)
    with pytest.raises(NotNow, match=says) as caught:
        webhook.connect()
    assert caught.value.is_setup
    assert "hidden" not in str(caught.value)
    assert SECRET.removeprefix("whsec_") not in str(caught.value)


def test_an_address_where_nobody_is_stays_a_secret(
    monkeypatch: pytest.MonkeyPatch, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(URL, "http://127.0.0.1:9/hidden")
    monkeypatch.setenv(KEY, SECRET)
    with pytest.raises(NotNow, match="Connection refused") as caught:
        webhook.deliver(webhook.trial(NOON), "", None)
    assert "hidden" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    "line", ['url_file = "https://hooks.example/x"', 'secret_file = "whsec_abc"']
)
def test_a_secret_in_the_settings_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml:1: webhook"):
        parse_settings(f"[webhook]\n{line}\n", "agent.toml")
