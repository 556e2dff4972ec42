"""A real training on another host than its agent: watched, looked at and operated over TCP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.home import Home
from lossguard.probes.launch import agent_is_running
from tests.e2e.live import EndlessTraining
from tests.support.site import Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


def typed(site: Site, key: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """A command on the host of whoever has this key: its exit code, and what it said."""
    with monkeypatch.context() as there:
        there.setenv("LOSSGUARD_HOME", str(site.folder / "desk"))
        there.setenv("LOSSGUARD_AGENT", site.address)
        there.setenv("LOSSGUARD_KEY_FILE", str(site.folder / f"{key}.key"))
        done = subprocess.run(
            [sys.executable, "-m", "lossguard", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return done.returncode, done.stdout + done.stderr


def test_a_run_is_watched_and_operated_from_other_hosts(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A viewer sees it and may not touch it; an operator rolls it back and stops it; the host of
    the training never has an agent of its own."""
    root = tmp_path / "gpu"
    gpu = Home(root / "state", root / "run", root / "logs", root / "config")
    viewer = site.host("look", "viewer")
    operator = site.file_for("op", "operator")
    with monkeypatch.context() as there:
        there.setenv("LOSSGUARD_AGENT", site.address)
        there.setenv("LOSSGUARD_KEY_FILE", str(site.file_for("gpu", "probe")))
        training = EndlessTraining(tmp_path, gpu, watched=["--guard", "--name", "far"])
    request.addfinalizer(training.process.kill)
    with Client(viewer) as client:

        def seen() -> feed.RunSummary | None:
            answer = client.request(feed.ListRuns())
            assert isinstance(answer, feed.RunList)
            return next((run for run in answer.runs if run.name == "far"), None)

        eventually(lambda: (run := seen()) is not None and run.step > 60)
        back = feed.SendCommand(run="far", command="b", action="rollback", args={"onset": 30})
        refused = client.request(back)
        assert isinstance(refused, feed.Trouble)
        assert "may look on and give no commands" in refused.why
        with Client(site.at(operator)) as desk:
            eventually(lambda: "restored_step" in getattr(desk.request(back), "result", ""))
        code, said = typed(site, "op", monkeypatch, "send", "far", "stop", "--arg", "reason=enough")
        assert code == 0, said
        assert training.wait() == 75, training.text()[-2000:]
        eventually(lambda: (run := seen()) is not None and run.state == "stopped")
    assert not agent_is_running(gpu)
