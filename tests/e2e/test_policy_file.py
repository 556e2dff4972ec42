"""A policy file changes what is done to a real training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.errors import ExitCode
from lossguard.home import Home
from tests.e2e.live import Training, actions, incidents, runs
from tests.support.agents import AgentProcess

pytestmark = pytest.mark.e2e

STEPS = ("--steps", "20", "--eval-every", "20")
TIGHT = """\
name = "tight"
base = "guard"

[detectors.grad_spike]
hard_bound = 0.5
"""


@pytest.fixture(autouse=True)
def no_policy_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOSSGUARD_POLICY", raising=False)


@pytest.mark.slow
def test_a_hard_bound_from_a_file_vetoes_updates(tmp_path: Path, served_home: Home) -> None:
    """The same training under plain ``guard`` is left alone."""
    plain_folder, tight_folder = tmp_path / "plain", tmp_path / "tight"
    plain_folder.mkdir()
    tight_folder.mkdir()
    policy = tmp_path / "tight.toml"
    policy.write_text(TIGHT)
    plain = Training(plain_folder, served_home, *STEPS, watched=["--guard", "--name", "plain"])
    assert plain.wait() == 0, plain.text()
    tight = Training(
        tight_folder, served_home, *STEPS, watched=["--policy", str(policy), "--name", "tight"]
    )
    assert tight.wait() == 0, tight.text()
    assert f"policy tight ({policy})" in tight.text()

    by_name = {run.name: run for run in runs(served_home)}
    assert (by_name["plain"].policy, by_name["plain"].actions) == ("guard", 0)
    assert (by_name["tight"].policy, by_name["tight"].step) == ("tight", 20)
    assert by_name["tight"].applied < 20
    found = [line for line in incidents(served_home, "tight") if line.symptom == "grad_spike"]
    assert set(actions(found)) == {"skip"}


def test_a_file_in_the_working_directory_is_found_and_a_flag_overrules_it(
    tmp_path: Path, served_home: Home
) -> None:
    """lossguard.toml as it is; then ``--policy observe`` in the same directory."""
    (tmp_path / "lossguard.toml").write_text(TIGHT)
    found = Training(tmp_path, served_home, *STEPS, watched=["--name", "found"])
    assert found.wait() == 0, found.text()
    overruled = Training(
        tmp_path, served_home, *STEPS, watched=["--policy", "observe", "--name", "overruled"]
    )
    assert overruled.wait() == 0, overruled.text()
    by_name = {run.name: run for run in runs(served_home)}
    assert by_name["found"].policy == "tight"
    assert by_name["found"].applied < 20
    assert (by_name["overruled"].policy, by_name["overruled"].applied) == ("observe", 20)


def test_a_bad_policy_ends_it_before_the_script_begins(tmp_path: Path, served_home: Home) -> None:
    """Exit code 78, the line in the file, and not a step of training."""
    script = tmp_path / "train.py"
    script.write_text("print('trained')\n")
    (tmp_path / "lossguard.toml").write_text("base = 'guard'\n\nmax_rolbacks = 3\n")
    done = subprocess.run(
        [sys.executable, "-m", "lossguard", "run", str(script)],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (ExitCode.CONFIG, "")
    where = "lossguard.toml:3: max_rolbacks: there is no such setting"
    assert where in done.stderr
    assert "did you mean 'max_rollbacks'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_script_that_attaches_by_itself_takes_a_file(tmp_path: Path, agent: AgentProcess) -> None:
    """By argument; a bad one is refused where the script asks for it."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch, lossguard\n"
        "model = torch.nn.Linear(4, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
        "try:\n"
        "    guard = lossguard.attach(model, optimizer, policy=sys.argv[1], name='own')\n"
        "except lossguard.LossguardError as error:\n"
        "    sys.exit(f'refused: {error}')\n"
        "for _ in range(5):\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.ones(2, 4)).pow(2).mean().backward()\n"
        "    optimizer.step()\n"
        "guard.close('finished')\n"
    )
    (tmp_path / "good.toml").write_text(TIGHT)
    (tmp_path / "bad.toml").write_text(TIGHT.replace("hard_bound", "hard_bond"))

    def train(policy: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), policy],
            cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
        )  # fmt: skip

    good = train("good.toml")
    assert good.returncode == 0, good.stderr
    assert {(run.name, run.policy) for run in agent.runs().values()} == {("own", "tight")}
    bad = train("bad.toml")
    assert bad.returncode == 1
    assert "bad.toml:5: detectors.grad_spike.hard_bond: there is no such setting" in bad.stderr
