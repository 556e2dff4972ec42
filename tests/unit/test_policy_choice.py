"""Which policy a run is under: the first that is there, whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lossguard import policy_choice
from lossguard.agent.policy_file import parse_policy
from lossguard.errors import ConfigError
from lossguard.policy_choice import choose_policy, shipped_policies, wanted_policy

BOUND = "base = 'guard'\n[detectors.grad_spike]\nhard_bound = 7.0\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing above it that names a policy."""
    monkeypatch.delenv("LOSSGUARD_POLICY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_that_is_there_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line, environment, lossguard.toml, pyproject.toml, observe: each hides the next."""
    found = [wanted_policy().policy]
    (project / "pyproject.toml").write_text("[tool.lossguard]\n")
    found.append(wanted_policy().policy)
    (project / "lossguard.toml").write_text("")
    found.append(wanted_policy().policy)
    monkeypatch.setenv("LOSSGUARD_POLICY", "guard")
    found.append(wanted_policy().policy)
    found.append(wanted_policy("observe").policy)
    own, table = str(project / "lossguard.toml"), str(project / "pyproject.toml")
    assert found == ["observe", table, own, "guard", "observe"]


def test_the_nearest_directory_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's file holds for all its directories, unless one has its own."""
    (project / "lossguard.toml").write_text("")
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert wanted_policy().policy == str(project / "lossguard.toml")
    (project / "a" / "pyproject.toml").write_text("[ tool . lossguard.detectors.grad_spike ]\n")
    assert wanted_policy().policy == str(project / "a" / "pyproject.toml")


@pytest.mark.parametrize("text", ["[project]\n", "# [tool.lossguard]\n", "[tool.lossguardian]\n"])
def test_a_pyproject_that_does_not_name_us_is_no_policy(project: Path, text: str) -> None:
    """Most do not."""
    (project / "pyproject.toml").write_text(text)
    assert wanted_policy().policy == "observe"


def test_plain_policies_are_chosen_without_another_process(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are what nearly everybody uses."""

    def no_process(policy: str) -> None:
        raise AssertionError(policy)

    monkeypatch.setattr(policy_choice, "_checked", no_process)
    bases = [choose_policy().base, choose_policy("guard").base, choose_policy(acts=True).base]
    assert bases == ["observe", "guard", "guard"]
    assert choose_policy("guard").text == ""


def test_the_settings_of_a_file_travel_as_text(project: Path) -> None:
    """Whoever gets it needs no file."""
    (project / "my.toml").write_text(BOUND)
    chosen = choose_policy("my.toml")
    assert (chosen.base, chosen.name) == ("guard", "my")
    policy = parse_policy(chosen.text, "x")
    assert policy.settings == {"grad_spike": {"hard_bound": 7.0}}


def test_a_shipped_policy_travels_as_text_too(project: Path) -> None:
    """An agent of another version may ship another one of that name."""
    assert parse_policy(choose_policy("classic").text, "x").name == "classic"


def test_acting_is_asked_for_apart(project: Path) -> None:
    """``--guard`` keeps the settings of a file that only observes."""
    (project / "lossguard.toml").write_text(BOUND.replace("guard", "observe"))
    watching, acting = choose_policy(), choose_policy(acts=True)
    assert (watching.base, acting.base) == ("observe", "guard")
    assert watching.text == acting.text
    assert "hard_bound = 7.0" in acting.text


def test_a_bad_file_is_refused_in_full(project: Path) -> None:
    """With all that the agent would say."""
    (project / "lossguard.toml").write_text("nme = 1\n[detectors.grad_spik]\n")
    with pytest.raises(ConfigError) as raised:
        choose_policy()
    first, second = str(raised.value).splitlines()
    assert first.endswith("lossguard.toml:1: nme: there is no such setting; did you mean 'name'?")
    assert "lossguard.toml:2: detectors.grad_spik: there is no such detector" in second


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("gaurd", "policy must be one of observe, guard, .*; did you mean 'guard'"),
        ("nowhere.toml", "there is no policy file 'nowhere.toml'"),
        ("some/where", "there is no policy file 'some/where'"),
    ],
)
def test_what_is_not_there_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, asked: str, said: str
) -> None:
    """Also where the environment asks for it, which is then named."""
    with pytest.raises(ConfigError, match=f"^{said}"):
        choose_policy(asked)
    monkeypatch.setenv("LOSSGUARD_POLICY", asked)
    with pytest.raises(ConfigError, match=f"^LOSSGUARD_POLICY: {said}"):
        choose_policy()


def test_a_reader_that_breaks_costs_the_settings_and_not_the_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, and what was asked for apart still holds."""
    (project / "lossguard.toml").write_text(BOUND)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert choose_policy().base == "observe"
    assert choose_policy(acts=True).base == "guard"
    assert len(caplog.records) == 2


def test_choosing_loads_nothing_heavy(project: Path) -> None:
    """The training script has not had its say yet when this runs."""
    (project / "lossguard.toml").write_text(BOUND)
    script = (
        "import sys; from lossguard.policy_choice import choose_policy; "
        "assert choose_policy().base == 'guard'; "
        "heavy = {'numpy', 'scipy', 'torch', 'lossguard.detectors', 'lossguard.agent'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_observe_and_guard_come_first() -> None:
    """They are what a person who mistyped most likely meant."""
    assert shipped_policies()[:2] == ["observe", "guard"]
