"""Frameworks that own the loop, under ``lossguard run``: scripts that know nothing of Lossguard."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lossguard.detectors import Observation
from lossguard.home import Home
from tests.support import warm_python
from tests.support.witness import Witness

pytestmark = pytest.mark.e2e

SCRIPTS = Path(__file__).parent / "scripts"
STEPS = 12
NAMES = ("0.weight", "0.bias", "3.weight", "3.bias")


class Framework(NamedTuple):
    """A script, and what it needs to run."""

    script: str
    package: str
    val_loss_is: float = 1.0
    """How our validation loss compares with the one that the framework reports."""


FRAMEWORKS = [
    # Its Trainer divides a sum by the number of labels, the first included that nobody predicts:
    # 16 of them for 15 predictions. We divide by the predictions.
    Framework("huggingface_trainer", "transformers", val_loss_is=16 / 15),
    Framework("lightning_trainer", "lightning"),
    Framework("lightning_fabric", "lightning"),
    Framework("ignite_engine", "ignite"),
    Framework("accelerate_loop", "accelerate"),
    Framework("skorch_net", "skorch"),
]
SELDOM = ("ignite_engine", "skorch_net", "lightning_fabric", "lightning_trainer", "accelerate_loop")
"""Built like others here, and left to ``make soak``: importing them is what takes the time."""


def require(package: str) -> None:
    """Skip the test where a framework is not installed, and say how it would be."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install --group frameworks)")


def run(folder: Path, script: str, *launcher: str) -> subprocess.CompletedProcess[str]:
    """To its end."""
    folder.mkdir()
    return warm_python.run([*launcher, SCRIPTS / f"{script}.py", folder / "out"], cwd=folder)


def told(stdout: str) -> dict[str, list[Any]]:
    """What the script itself measured: a list for each of loss, grad_norm, val_loss and weights."""
    lists: dict[str, list[Any]] = {}
    for line in stdout.splitlines():
        for name, value in json.loads(line).items():
            lists.setdefault(name, []).append(value)
    return lists


def column(seen: list[Observation], metric: str) -> list[float]:
    return [o.values[metric] for o in seen if metric in o.values]


@pytest.mark.parametrize(
    "framework",
    [
        pytest.param(f, id=f.script, marks=[pytest.mark.slow] if f.script in SELDOM else [])
        for f in FRAMEWORKS
    ],
)
def test_the_run_is_as_without_and_everything_in_it_is_seen(
    framework: Framework, tmp_path: Path, home: Home
) -> None:
    """Same output and weights to the last bit; and the agent has, for each optimizer step, the very
    loss and gradient norm that the script measured itself, and its validation losses."""
    require(framework.package)
    plain = run(tmp_path / "plain", framework.script)
    assert plain.returncode == 0, plain.stderr
    with Witness(home) as witness:
        watched = run(tmp_path / "watched", framework.script, "-m", "lossguard", "run")
        assert watched.returncode == 0, watched.stderr
        witness.await_end(framework.script)
    assert watched.stdout == plain.stdout
    says = [line for line in watched.stderr.splitlines() if line.startswith("lossguard")]
    assert says == ["lossguard: the lossguard agent is there"]

    mine, seen = told(plain.stdout), witness.runs[framework.script]
    assert [o.step for o in seen[:STEPS]] == list(range(1, STEPS + 1))
    assert seen[-1].applied == STEPS
    assert column(seen, "loss") == pytest.approx(mine["loss"], rel=1e-5)
    assert column(seen, "grad_norm") == pytest.approx(mine["grad_norm"], rel=1e-5)
    val_losses = [value * framework.val_loss_is for value in mine["val_loss"]]
    assert column(seen, "val_loss") == pytest.approx(val_losses, rel=1e-5)
    assert set(column(seen, "eval_in_training")) == {0.0}
    assert set(column(seen, "train_in_eval")) == {0.0}
    for observation in seen[1:STEPS]:
        norms = observation.families["grad_norm"].values
        assert math.hypot(*norms) == pytest.approx(observation.values["grad_norm"], rel=1e-4)
        assert len(observation.families["act_rms"].values) > 0
