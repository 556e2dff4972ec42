"""A plain script delivers every metric of docs/metrics.md, attached to or not edited at all."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_pre_hooks

from lossguard.agent.placement import Placement
from lossguard.detectors import Observation
from lossguard.policy_choice import choose_policy
from lossguard.probes import wire
from lossguard.probes.discover import models_of
from lossguard.probes.guard import Guard, attach
from lossguard.probes.living import LOOPS
from lossguard.probes.loop import Loop
from lossguard.probes.outbox import Measured
from lossguard.probes.self_attaching import watch_what_trains

pytestmark = pytest.mark.usefixtures("no_link")

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "plain_training.py"
NOT_HERE = {
    "epoch", "input_absmax", "input_mean", "eos_share", "weight_checksum", "rank_lag",
    "rank_step_time", "rank_own_time", "rank_data_time", "rank_checksum",
    "memory_allocated", "memory_reserved", "memory_total", "memory_fragmented",
    "allocator_retries", "gpu_utilization", "gpu_temperature", "gpu_power",
}  # fmt: skip
"""A log's, a floating-point model's (``test_inputs.py``), one's that knows how texts end
(``test_outputs.py``), a GPU's (``test_waiting.py``), and what takes several ranks
(``test_ranks_compared.py``)."""

Run = Callable[[], list[Observation]]


def documented() -> tuple[set[str], set[str]]:
    """The plain metrics and the families that docs/metrics.md names."""
    plain, _, families = (ROOT / "docs" / "metrics.md").read_text().partition("## Families")
    found = []
    for part in (plain, families):
        rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        found.append({name.strip(" `") for row in rows for name in row.split(",")})
    return found[0], found[1]


def observations(items: list[Any]) -> list[Observation]:
    """What the agent would make of what was sent."""
    seen = []
    for item in items:
        if isinstance(item, Measured):
            values, _ = item.read()
            header = wire.Step(
                run="r", rank=0, step=item.step, applied=item.step, sequence=item.sequence,
                layout=item.layout.layout, time_s=item.time_s,
            )  # fmt: skip
            seen.append(Placement(item.layout).place(header, values.tobytes()))
    return seen


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Runs the script in this process; what its watch has sent. Threads look when asked to."""
    sent: list[Any] = []
    monkeypatch.setattr("lossguard.probes.outbox.Outbox.put", lambda self, item: sent.append(item))
    before = set(LOOPS)
    created = Loop.__init__

    def create(self: Loop, *args: Any, **kwargs: Any) -> None:
        created(self, *args, **kwargs)
        self._machine.look()

    monkeypatch.setattr(Loop, "__init__", create)

    def run() -> list[Observation]:
        monkeypatch.setattr("sys.argv", [str(SCRIPT), str(tmp_path / "model.pt")])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        for loop in set(LOOPS) - before:
            assert isinstance(loop, Loop)
            assert not loop._shield._off
            loop.close("finished")
        return observations(sent)

    yield run
    for loop in set(LOOPS) - before:
        loop.close("closed")


@pytest.fixture(params=["run", "attach"])
def watched(request: pytest.FixtureRequest, script: Run) -> Iterator[Run]:
    """Once as under ``lossguard run``, once with ``attach`` in the script."""
    hooks = dict(_global_optimizer_pre_hooks)
    guards: list[Guard] = []
    adam = torch.optim.AdamW.__init__

    def run() -> list[Observation]:
        if request.param == "run":
            armed = watch_what_trains(lambda: choose_policy("observe"), None)
            try:
                return script()
            finally:
                armed.disarm()
        patch = pytest.MonkeyPatch()

        def init(self: Any, params: Any, *args: Any, **kwargs: Any) -> None:
            adam(self, params, *args, **kwargs)
            guards.append(attach(models_of(self)[0], self, agent="existing"))

        patch.setattr(torch.optim.AdamW, "__init__", init)
        try:
            return script()
        finally:
            patch.undo()

    yield run
    _global_optimizer_pre_hooks.clear()
    _global_optimizer_pre_hooks.update(hooks)
    for guard in guards:
        guard.close()


def test_every_documented_metric_arrives(watched: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """At its own pace: every step, every 16th, or with an evaluation; and nothing undocumented."""
    plain, families = documented()
    seen = watched()
    assert len(seen) == 41, "40 steps, and the evaluation after the last"
    delivered = {name for observation in seen for name in observation.values}
    assert delivered == plain - NOT_HERE
    assert {name for o in seen for name in o.families} == families - NOT_HERE
    validations = {o.step: o.values["val_loss"] for o in seen if "val_loss" in o.values}
    printed = json.loads(capsys.readouterr().out)
    assert list(validations) == [21, 40]
    assert list(validations.values()) == pytest.approx(printed)
    assert [o.values["eval_in_training"] for o in seen if "val_loss" in o.values] == [0.0, 0.0]
    sampled = {
        "zero_share", "saturated_share", "weight_norm", "update_ratio", "act_absmax", "adam_ratio",
    }  # fmt: skip
    assert [o.step for o in seen if sampled & set(o.families)] == [16, 32]
    assert [o.step for o in seen if "output_entropy" in o.values] == [16, 32]


def test_every_step_has_what_is_said_of_every_step(watched: Run) -> None:
    """From the third on, when whatever came in the middle of the first is over."""
    usual = {
        "loss", "grad_norm", "max_norm", "lr", "loss_scale", "skipped", "step_time",
        "train_in_eval", "input_top_share", "input_distinct_share", "input_length", "data_wait",
        "checkpoint_age", "input_batch", "input_fingerprint", "loss_scale_growth",
        "clip_coefficient", "forward_time", "backward_time", "optimizer_time",
    }  # fmt: skip
    for observation in watched()[2:40]:
        assert usual <= set(observation.values), observation.step
        assert {"grad_norm", "act_rms"} <= set(observation.families)
        assert observation.values["train_in_eval"] == 0.0
        assert observation.values["max_norm"] == 1.0
        assert observation.values["input_length"] == 8.0
        assert 0.0 < observation.values["data_wait"] < observation.values["step_time"]
