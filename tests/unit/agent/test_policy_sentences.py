"""``lossguard policy check``: a policy in sentences, or what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from lossguard.agent.cli import app
from lossguard.agent.policy_file import parse_policy
from lossguard.agent.policy_sentences import in_sentences
from lossguard.errors import ConfigError

FULL = """
name = "mine"
base = "guard"
ladder = [{ do = "rollback" }, { do = "rollback", lr = 0.5 }]
[[rules]]
symptom = ["hang"]
ladder = [{ do = "stop" }]
[validation]
keep_best = true
patience = 3
[hang]
after_s = 60
[detectors.plateau]
enabled = false
[detectors.grad_spike]
hard_bound = 100.0
"""


def test_every_part_is_said() -> None:
    page = "\n".join(in_sentences(parse_policy(FULL, "mine.toml")))
    for words in (
        "Policy 'mine' is sound", "critical hang: stop", "rollback, then rollback (lr 0.5)",
        "best validation loss is kept", "3 evaluations without", "Not looked for: plateau",
        "Set for grad_spike: hard_bound = 100.0", "does nothing for 60 s is called hung",
    ):  # fmt: skip
        assert words in page


def test_a_policy_that_observes_says_that_it_does_nothing() -> None:
    sentences = list(in_sentences(parse_policy('base = "observe"', "mine.toml")))
    assert sentences == [
        "Policy 'custom' is sound.",
        "It observes: nothing is done to the run unless somebody orders it.",
    ]


def test_the_command_prints_it_and_speaks_json(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(FULL)
    path = str(tmp_path / "mine.toml")
    assert "is sound" in CliRunner().invoke(app, ["policy", "check", path]).stdout
    said = json.loads(CliRunner().invoke(app, ["policy", "check", path, "--json"]).stdout)
    assert said["hang"]["after_s"] == 60


def test_what_is_wrong_is_said_with_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(FULL.replace("after_s", "afer_s"))
    result = CliRunner().invoke(app, ["policy", "check", str(tmp_path / "mine.toml")])
    assert isinstance(result.exception, ConfigError)
    assert "mine.toml:12: hang.afer_s" in str(result.exception)
    assert "after_s" in str(result.exception)
