"""The probe fails at every place where it can: training does not notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import lossguard
from lossguard import failpoints
from lossguard.probes import hooks, last_resort, shield, wire
from tests.faults.everything import Training, digest
from tests.faults.sites import link_sites, loop_sites
from tests.unit.probes.loops import NoLink

SCRIPT = Path(__file__).with_name("everything.py")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the training comes to when nobody watches."""
    training = Training(tmp_path_factory.mktemp("plain"))
    training.run()
    return digest(training.end())


def watched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rules: str
) -> tuple[str, list[failpoints.Rule]]:
    """What it comes to under guard with these failures; and the rules, which know what happened."""
    monkeypatch.setattr("lossguard.probes.watch.Link", NoLink)
    parsed = failpoints.parse(rules)
    for module in (shield, last_resort, hooks):
        monkeypatch.setattr(module, "IS_SET", True)
    monkeypatch.setattr(failpoints, "RULES", parsed)
    training = Training(folder)
    guard = lossguard.attach(
        training.model, training.optimizer, scheduler=training.scheduler,
        scaler=training.scaler, policy="guard", agent="existing",
    )  # fmt: skip
    link: Any = guard._loop._link if guard._loop is not None else None
    link.limits = wire.Limits(run="r", version=1, loss=1e6, proven_step=-1, holds_evaluated=True)
    link.orders.append(wire.Command(run="r", command="c", action="ack", expires_step=99))
    try:
        training.run(guard)
        end: list[Tensor] = training.end()
    finally:
        guard.close()
    return digest(end), parsed


@pytest.mark.parametrize("nth", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("site", loop_sites())
def test_an_exception_at_any_place_leaves_no_trace_in_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: object, plain: str, site: str, nth: int
) -> None:
    """Losses, weights, moments, averages and random numbers are those of the bare run, bit for
    bit: whether it fails at the first time or when all is under way."""
    end, (rule,) = watched(tmp_path, monkeypatch, f"{site}:raise@{nth}")
    assert end == plain
    assert rule.left < nth, "the place was never reached"


def test_without_a_failure_it_is_the_same_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: object, plain: str
) -> None:
    """The healthy twin."""
    assert watched(tmp_path, monkeypatch, "nowhere:raise")[0] == plain


def test_what_is_no_rule_is_refused() -> None:
    """A test that fails nothing must not pass for one; and unset, nothing is armed."""
    for text in ("site", "site:explode", "a b:kill:now"):
        with pytest.raises(ValueError, match="is not site:kill"):
            failpoints.parse(text)
    assert not failpoints.IS_SET
    assert failpoints.reach("store.committed") is None  # type: ignore[func-returns-value]


def _process(folder: Path, home: Any, **more: str) -> tuple[int, str, str]:
    env = {
        **os.environ,
        "LOSSGUARD_HOME": str(home.state.parent),
        "PYTHONPATH": str(SCRIPT.parents[2]),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=env | more, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["digest"] if done.stdout else ""
    return done.returncode, found, done.stderr


def test_a_process_whose_probe_fails_everywhere_ends_with_its_own_exit_code(
    tmp_path: Path, home: Any, plain: str
) -> None:
    """Every place at once, from the environment: the same weights, and exit code 7 as without."""
    code, found, said = _process(tmp_path, home, WATCHED="1", LOSSGUARD_FAILPOINT="*:raise")
    assert (code, found) == (7, plain), said[-2000:]
    assert "training goes on" in said


@pytest.mark.slow
@pytest.mark.parametrize("what", ["raise", "sleep=0.2"])
@pytest.mark.parametrize("site", [*loop_sites(), *link_sites()])
def test_a_process_whose_probe_fails_at_a_place_ends_as_it_would(
    tmp_path: Path, home: Any, plain: str, site: str, what: str
) -> None:
    """One process for every place."""
    code, found, said = _process(tmp_path, home, WATCHED="1", LOSSGUARD_FAILPOINT=f"{site}:{what}")
    assert (code, found) == (7, plain), said[-2000:]
