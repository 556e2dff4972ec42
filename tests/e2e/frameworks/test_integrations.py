"""The callbacks for Hugging Face and Lightning, and the line for Accelerate, in the examples."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from lossguard.home import Home
from tests.e2e.frameworks.test_unedited_scripts import column, require
from tests.e2e.frameworks.trials.forwards import POISONED_FORWARD, ROLLED_BACK_AFTER
from tests.support import warm_python
from tests.support.witness import Witness

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[3]
STEPS = {"huggingface": 24, "lightning": 32, "accelerate": 32}
PACKAGES = {"huggingface": "transformers", "lightning": "lightning", "accelerate": "accelerate"}
POISONED_STEP = POISONED_FORWARD // 2


class Trials:
    """The same training six times in one process: what it says, and what its agent saw."""

    def __init__(self, framework: str, home: Home) -> None:
        paths = [str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]
        with Witness(home) as witness:
            done = warm_python.run(
                ["-m", f"tests.e2e.frameworks.trials.{framework}"],
                cwd=home.state,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
            assert done.returncode == 0, done.stderr
            witness.await_end("observed", "guarded", "poisoned", "saved", "rolled_back")
        self.results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.seen = witness.runs
        self.said = witness.said


@pytest.mark.parametrize(
    "framework",
    [pytest.param(name, marks=[pytest.mark.slow] if name != "lightning" else []) for name in STEPS],
)
def test_an_integration_watches_saves_and_turns_back(framework: str, home: Home) -> None:
    """One process for each framework, for its import takes longest: four claims in the order of
    their helpers below, each with its twin."""
    require(PACKAGES[framework])
    trials = Trials(framework, home)
    changes_nothing_and_sees_all(trials, STEPS[framework])
    skips_what_is_not_finite(trials, STEPS[framework])
    rolls_back_to_the_last_bit(trials, STEPS[framework])
    assert "probe_off" not in str(trials.said)


def changes_nothing_and_sees_all(trials: Trials, steps: int) -> None:
    """Observed and guarded, a healthy training ends with the weights of a plain one; every step
    counts, the first included, and the validation losses are those of the framework."""
    plain = trials.results["plain"]
    for name in ("observed", "guarded"):
        assert trials.results[name]["end"] == plain["end"], name
        seen = trials.seen[name]
        assert [o.step for o in seen[:steps]] == list(range(1, steps + 1))
        assert seen[-1].applied == steps
        for metric in ("loss", "grad_norm", "lr", "max_norm"):
            assert len(column(seen, metric)) == steps, metric
        assert column(seen, "val_loss") == pytest.approx(plain["val_losses"], rel=1e-6)
        assert set(column(seen, "skipped")) == {0.0}
        norms = seen[0].families["grad_norm"]
        assert math.hypot(*norms.values) == pytest.approx(seen[0].values["grad_norm"], rel=1e-4)
        assert norms.names[-1].endswith(("3.bias", "ln_f.bias"))


def skips_what_is_not_finite(trials: Trials, steps: int) -> None:
    """One NaN among the outputs ends the unguarded run; under the guard its update is dropped."""
    assert not trials.results["poisoned"]["is_finite"]
    assert trials.results["saved"]["is_finite"]
    skipped = [o.step for o in trials.seen["saved"] if o.values.get("skipped")]
    assert skipped == [POISONED_STEP]
    assert trials.seen["saved"][-1].applied == steps - 1
    weights = trials.results["saved"]["before_step"]
    assert weights[str(POISONED_STEP + 1)] == weights[str(POISONED_STEP)]


def rolls_back_to_the_last_bit(trials: Trials, steps: int) -> None:
    """After the rollback the weights are those of the snapshot, and so is the schedule."""
    seen = {o.step: o for o in trials.seen["rolled_back"]}
    restored = seen[ROLLED_BACK_AFTER + 1].applied - 1
    assert 1 <= restored < ROLLED_BACK_AFTER
    weights = trials.results["rolled_back"]["before_step"]
    assert weights[str(ROLLED_BACK_AFTER + 1)] == weights[str(restored + 1)]
    assert weights[str(ROLLED_BACK_AFTER + 1)] != weights[str(ROLLED_BACK_AFTER)]
    rates = {step: observation.values.get("lr") for step, observation in seen.items()}
    assert rates[ROLLED_BACK_AFTER + 1] == rates[restored + 1]
    assert rates[ROLLED_BACK_AFTER + 1] != rates[ROLLED_BACK_AFTER]
    assert max(seen) >= steps
