"""What ``lossguard run`` hands to the processes that its script starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossguard.agent.running import for_children
from lossguard.policy_choice import choose_policy


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
