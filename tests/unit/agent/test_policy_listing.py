"""``lossguard policies``: for people, for scripts, and as a file to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lossguard.agent.policy_file import parse_policy, shipped_policy
from lossguard.agent.policy_listing import list_policies, print_policy
from lossguard.agent.policy_settings import Policy, detectors_for
from lossguard.agent.run import Run
from lossguard.detectors import CATALOGUE
from lossguard.policy_choice import shipped_policies


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a policy."""
    monkeypatch.delenv("LOSSGUARD_POLICY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_shipped_policy_has_a_line_that_says_what_it_is_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the one in force is marked."""
    list_policies(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("   ")][1:] == [
        name for name in shipped_policies() if name != "observe"
    ]
    (marked,) = (line for line in lines if line.startswith("*  "))
    assert marked.split()[1] == "observe"
    assert "(the default)" in lines[-1]


def test_a_file_in_force_is_listed_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With where it is."""
    (project / "lossguard.toml").write_text("base = 'guard'\nname = 'mine'\n")
    list_policies(as_json=True)
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in listed] == [*shipped_policies(), "mine"]
    assert [line["name"] for line in listed if line["in_force"]] == ["mine"]
    assert listed[-1]["about"] == str(project / "lossguard.toml")


@pytest.mark.parametrize("name", shipped_policies())
def test_what_is_printed_is_a_policy_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``lossguard policies guard > lossguard.toml`` is a way to begin."""
    print_policy(name, as_json=False)
    printed = parse_policy(capsys.readouterr().out, "printed")
    shipped = shipped_policy(name)
    assert (printed.name, printed.acts, printed.rollback_for) == (
        name, shipped.acts, shipped.rollback_for,
    )  # fmt: skip


def test_json_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that are defaults."""
    print_policy("guard", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert list(told["detectors"]) == list(CATALOGUE)
    assert told["detectors"]["grad_spike"]["multiple"] == 10.0
    assert told["detectors"]["grad_spike"]["enabled"] is True


def test_classic_is_what_people_write_by_hand() -> None:
    """The thresholds it is known for."""
    classic = shipped_policy("classic")
    assert classic.acts
    assert classic.nonfinite_tolerance == 5
    assert classic.settings == {
        "grad_spike": {"multiple": 10.0, "hard_bound": 100.0},
        "weight_growth": {"embedding_norm": 10.0},
        "overfitting": {"ratio": 1.1, "patience": 5, "min_delta": 0.001},
        "loss_scale": {"high": 2.0**20},
    }


def test_a_detector_that_starts_afresh_keeps_its_settings() -> None:
    """A state of before that does not fit costs what was learnt, not what was set."""
    policy = Policy(name="x", acts=True, settings={"grad_spike": {"hard_bound": 7.0}})
    run = Run("run-a", policy, detectors_for(policy), lambda: 0.0)
    saved = run.state()
    saved["detectors"]["grad_spike"] = {"nonsense": 1}
    run.restore(saved)
    assert run.limits.now == {"grad_norm": 7.0}
