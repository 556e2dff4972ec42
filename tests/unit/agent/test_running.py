"""What ``lossguard run`` hands to the processes that its script starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossguard.agent import running
from lossguard.agent.running import WatchedRun, for_children
from lossguard.home import Home
from lossguard.policy_choice import choose_policy
from lossguard.probes import runner


def test_children_that_train_are_watched_as_their_parent() -> None:
    """The environment says no more than the command line did."""
    assert for_children(None, acts=False, name=None) == {"LOSSGUARD": "1"}
    assert for_children("strict", acts=True, name="mine") == {
        "LOSSGUARD": "guard", "LOSSGUARD_POLICY": "strict", "LOSSGUARD_NAME": "mine",
    }  # fmt: skip


def test_a_policy_file_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script may change its folder before it starts others."""
    (tmp_path / "mine.toml").write_text('base = "observe"\n')
    monkeypatch.chdir(tmp_path)
    said = for_children("mine.toml", acts=False, name=None)["LOSSGUARD_POLICY"]
    monkeypatch.chdir("/")
    assert os.path.isabs(said)
    monkeypatch.setenv("LOSSGUARD_POLICY", said)
    assert choose_policy(None).origin == said


@pytest.mark.parametrize(("settings", "starts"), [("", True), ("[slack]\nchanel = 1\n", False)])
def test_settings_that_no_agent_could_start_with_are_said_by_the_run_itself(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: str,
    starts: bool,
) -> None:
    """And it trains all the same."""
    begun: list[str] = []
    home.create().config.mkdir(parents=True, exist_ok=True)
    home.settings_path.write_text(settings)
    monkeypatch.setattr(running, "start_agent", lambda home: begun.append("agent"))
    monkeypatch.setattr(runner, "narrate", lambda: None)
    monkeypatch.setattr(runner, "watch_by_itself", lambda policy, name: None)
    monkeypatch.setattr(runner, "run", lambda *_, **__: begun.append("script"))
    running.start(
        WatchedRun(
            script="train.py",
            is_module=False,
            arguments=[],
            policy=choose_policy(None),
            name=None,
            environment={},
        )
    )
    assert begun == ["agent", "script"][1 - starts :]
    assert ("agent.toml:2: slack.chanel" in caplog.text) != starts
