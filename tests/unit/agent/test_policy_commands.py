"""Policies and explanations on the command line: output, exit codes, precedence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.agent.policy_file import parse_policy
from lossguard.errors import ExitCode


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a policy, and no agent of the user."""
    monkeypatch.delenv("LOSSGUARD_POLICY", raising=False)
    monkeypatch.setenv("LOSSGUARD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lossguard_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m lossguard ARGUMENTS``."""
    return subprocess.run(
        [sys.executable, "-m", "lossguard", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def spiky_log(project: Path) -> str:
    """A log with a loss that leaps once and stays for three steps."""
    losses = [2.0 - 0.001 * i + 0.01 * (i % 3) for i in range(200)]
    losses[150:153] = [9.0, 9.0, 9.0]
    rows = "".join(f"{step},{loss}\n" for step, loss in enumerate(losses))
    (project / "log.csv").write_text("step,loss\n" + rows)
    return "log.csv"


def symptoms(done: subprocess.CompletedProcess[str]) -> set[str]:
    """What a backtest found."""
    assert done.returncode == 0, done.stderr
    return {json.loads(line)["symptom"] for line in done.stdout.splitlines()}


def test_a_policy_decides_what_a_backtest_looks_for(project: Path, spiky_log: str) -> None:
    """A detector that is off finds nothing; the command line overrules the file."""
    assert "loss_spike" in symptoms(lossguard_command("backtest", "--json", spiky_log))
    (project / "lossguard.toml").write_text("[detectors.loss_spike]\nenabled = false\n")
    assert "loss_spike" not in symptoms(lossguard_command("backtest", "--json", spiky_log))
    overruled = lossguard_command("backtest", "--json", "--policy", "observe", spiky_log)
    assert "loss_spike" in symptoms(overruled)


@pytest.mark.parametrize(
    "arguments",
    [
        ["policies"],
        ["policies", "lossguard.toml"],
        ["backtest", "log.csv"],
        ["run", "train.py"],
        ["policies", "no-such-policy"],
        ["run", "--policy", "nowhere.toml", "train.py"],
    ],
)
def test_a_policy_that_is_wrong_exits_with_78(
    project: Path, spiky_log: str, arguments: list[str]
) -> None:
    """One line of complaint a mistake, nothing on stdout, no traceback."""
    (project / "train.py").write_text("print('trained')")
    (project / "lossguard.toml").write_text("base = 'gard'\n")
    done = lossguard_command(*arguments)
    assert (done.returncode, done.stdout) == (ExitCode.CONFIG, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("lossguard: ")


def test_a_printed_policy_is_a_policy(project: Path) -> None:
    """Whole, on stdout."""
    done = lossguard_command("policies", "strict")
    assert done.returncode == 0
    assert parse_policy(done.stdout, "printed").name == "strict"


def test_an_explanation_goes_to_stdout_and_a_mistake_to_stderr(project: Path) -> None:
    """With 0 and 2."""
    explained = lossguard_command("explain", "nonfinite")
    assert (explained.returncode, explained.stderr) == (0, "")
    assert "NaN or Inf" in explained.stdout
    assert lossguard_command("explain").stdout.startswith("nonfinite ")
    wrong = lossguard_command("explain", "los_spike")
    assert (wrong.returncode, wrong.stdout) == (ExitCode.USAGE, "")
    assert "did you mean loss_spike?" in wrong.stderr
