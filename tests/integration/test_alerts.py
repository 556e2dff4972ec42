"""A real agent, a probe by hand, and Slack on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lossguard.home import Home
from tests.support import slack_server
from tests.support.agents import BeginAgent
from tests.support.probe import FakeProbe, hello_of
from tests.support.slack_server import Fault, SlackServer
from tests.support.streams import diverge, healthy_losses
from tests.support.waiting import eventually


@pytest.fixture
def slack(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackServer]:
    """Slack, and a home whose agent.toml names it."""
    server = SlackServer()
    home.config.mkdir(parents=True)
    home.settings_path.write_text(
        '[slack]\nchannel = "training"\n[alerts]\nkeep_firing_s = 0.5\nfor_s = 0.5\n'
    )
    monkeypatch.setenv("LOSSGUARD_SLACK_API_URL", server.url)
    monkeypatch.setenv("LOSSGUARD_SLACK_BOT_TOKEN", slack_server.TOKEN)
    yield server
    server.close()


def said(server: SlackServer, root: dict[str, Any], words: str) -> bool:
    return any(words in reply["text"] for reply in server.workspace.thread(root))


def test_an_agent_killed_before_slack_answered_repeats_one_message_and_misses_none(
    home: Home, slack: SlackServer, begin_agent: BeginAgent
) -> None:
    """Slack has taken the root, and the agent dies before it knows: kill -9."""
    slack.workspace.fail("chat.postMessage", Fault(accepts=True))
    first = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        diverge(probe)
        eventually(lambda: slack.workspace.roots)
        first.kill()
        begin_agent()
        eventually(lambda: len(slack.workspace.roots) == 2)
        probe.join()
        root = slack.workspace.roots[1]
        eventually(lambda: said(slack, root, "Details"))
        eventually(lambda: any("file" in reply for reply in slack.workspace.thread(root)))
        probe.bye("finished")
        eventually(lambda: said(slack, root, "Not resolved: the run finished"))
    assert slack.workspace.thread(slack.workspace.roots[0]) == []
    assert len([root for root in slack.workspace.roots if "NaN" in root["text"]]) == 2


@pytest.mark.slow
def test_an_agent_killed_before_slack_took_anything_tells_it_once(
    home: Home, slack: SlackServer, begin_agent: BeginAgent
) -> None:
    slack.workspace.fail("chat.postMessage", *[Fault(500, "internal_error")] * 2)
    first = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        diverge(probe)
        eventually(lambda: "chat.postMessage" in slack.workspace.calls)
        first.kill()
        begin_agent()
        eventually(
            lambda: slack.workspace.roots and said(slack, slack.workspace.roots[0], "Details")
        )
    assert len(slack.workspace.roots) == 1


@pytest.mark.slow
def test_a_healthy_run_is_told_of_to_nobody(
    home: Home, slack: SlackServer, begin_agent: BeginAgent
) -> None:
    agent = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        for loss in healthy_losses(120):
            probe.send_step(loss)
        agent.await_run(lambda run: run.step == 120)
        probe.bye("finished")
        agent.await_run(lambda run: run.state == "finished")
    agent.stop()
    assert slack.workspace.messages == []
    assert slack.workspace.calls == ["auth.test"]


def test_the_token_is_in_no_file_of_the_home(
    home: Home, slack: SlackServer, begin_agent: BeginAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, so that there is every reason to write about it."""
    monkeypatch.setenv("LOSSGUARD_SLACK_BOT_TOKEN", "xoxb-not-this-one")
    agent = begin_agent()
    with FakeProbe(home, hello_of()) as probe:
        probe.join()
        diverge(probe)
        eventually(lambda: "invalid_auth" in agent.log)
        agent.await_run(lambda run: run.open_incidents > 0)
    agent.stop()
    files = [path for path in home.state.parent.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if b"not-this-one" in path.read_bytes()]


def test_an_agent_that_is_to_tell_nobody_loads_nothing_for_it(home: Home) -> None:
    program = (
        "import sys\nfrom lossguard.agent.alerting import Orders, start_alerts\n"
        "from lossguard.agent.audit import AuditLog\n"
        "from lossguard.agent.registry import Registry\nfrom lossguard.agent.store import Store\n"
        "from lossguard.agent.settings import load_settings\n"
        "from lossguard.home import find_home\nhome = find_home().create()\n"
        "registry = Registry(Store(home.database_path), lambda *_: True)\n"
        "orders = Orders(lambda *_: None, AuditLog(home.audit_path))\n"
        "assert start_alerts(home, load_settings(home), registry, orders) is None\n"
        "print([m for m in sys.modules if 'slack_sdk' in m or 'matplotlib' in m])"
    )
    environment = {name: value for name, value in os.environ.items() if "SLACK" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
