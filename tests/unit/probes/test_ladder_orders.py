"""The upper rungs: deeper, slower, from disk; and what else may be ordered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lossguard.errors import StopTraining
from lossguard.probes import wire
from tests.unit.probes.commanded import Commanded, command
from tests.unit.probes.loops import Watch, loop_of, same

pytestmark = pytest.mark.usefixtures("no_link")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where snapshots go."""
    monkeypatch.setenv("LOSSGUARD_HOME", str(tmp_path))
    return tmp_path


def done(loop: Commanded) -> dict[str, Any]:
    """The result of the latest command, which was carried out."""
    answer = loop.answers[-1]
    assert answer.status == "done", answer.result
    return dict(answer.result)


def snapshots_every_step(loop: Commanded) -> Any:
    """The ring, which takes one after each of the steps to come."""
    ring = loop_of(loop.guard)._acting._ring
    ring._min_interval, ring._overhead = 1, 1e9
    return ring


@pytest.mark.parametrize(("deeper", "restored"), [(0, 8), (1, 7), (3, 5), (99, 1)])
def test_a_deeper_rollback_goes_to_an_older_snapshot(
    watch: Watch, deeper: int, restored: int
) -> None:
    """So many places further back, and not past the oldest."""
    loop = Commanded(watch)
    snapshots_every_step(loop)
    loop.run(9)
    loop.order(command("c", "rollback", onset=10, deeper=deeper))
    loop.run()
    assert done(loop)["restored_step"] == restored


def test_a_rollback_with_a_lower_rate_warms_up_to_it(watch: Watch) -> None:
    """From a tenth to half of what the schedule says; the script sees its own rates."""
    loop = Commanded(watch)
    snapshots_every_step(loop)
    loop.run(4)
    loop.order(command("c", "rollback", onset=5, lr=0.5, warmup_steps=4))
    loop.run()
    assert done(loop)["lr"] == 0.5
    assert loop.schedule.base_lrs == [0.005]
    used: list[float] = []
    seen: list[float] = []
    loop.optimizer.register_step_pre_hook(  # after ours
        lambda *args: used.append(loop.optimizer.param_groups[0]["lr"])
    )
    for _ in range(6):
        seen.append(loop.optimizer.param_groups[0]["lr"])
        loop.run()
    assert len(used) == 6
    assert [u / s for u, s in zip(used, seen, strict=True)] == pytest.approx(
        [0.28, 0.46, 0.64, 0.82, 1.0, 1.0]
    )


def test_a_checkpoint_on_order_outlives_the_run_and_is_found_by_a_rollback(
    watch: Watch, home: Path
) -> None:
    """With nothing left in memory; the weights are those of its step, bit for bit."""
    loop = Commanded(watch)
    loop.run(3)
    loop.order(command("c", "checkpoint"))
    loop.run()
    expected = loop.everything()[:2]
    result = done(loop)
    assert result["step"] == 4
    assert Path(str(result["folder"])).is_relative_to(home)
    acting = loop_of(loop.guard)._acting
    acting._tier.settle()
    loop.run(5)
    acting._ring.clear()
    loop.order(command("r", "rollback", onset=9))
    loop.run()
    assert done(loop)["restored_step"] == 4
    assert done(loop)["from"] == "disk"
    assert same(loop.everything()[:2], expected)


def test_a_stop_with_a_checkpoint_has_it_on_disk_when_it_stops(watch: Watch) -> None:
    """Whoever stopped the run can go on from there."""
    loop = Commanded(watch)
    loop.run(3)
    loop.order(command("c", "stop", checkpoint=1))
    with pytest.raises(StopTraining):
        loop.run()
    assert loop_of(loop.guard)._acting._tier.steps == [4]


def test_a_run_that_finished_leaves_nothing_on_disk(watch: Watch) -> None:
    """The healthy twin of a crash: snapshots were for the case that it does not."""
    loop = Commanded(watch)
    loop.run(2)
    loop.order(command("c", "checkpoint"))
    loop.run()
    tier = loop_of(loop.guard)._acting._tier
    tier.settle()
    assert tier.steps == [3]
    loop.guard.close()
    assert tier.steps == []


def test_only_what_has_proven_good_goes_to_disk_by_itself(watch: Watch) -> None:
    """The newest snapshot that is old enough, by what the agent says."""
    loop = Commanded(watch)
    snapshots_every_step(loop)
    acting = loop_of(loop.guard)._acting
    acting._tier._interval_s = 0.0
    loop.run(15)
    acting._tier.settle()
    assert acting._tier.steps == [], "nothing is proven yet"
    acting._ring._min_interval = 100
    acting._ring._next_step = 100
    limits = wire.Limits(run="run", version=1, proven_step=12)
    loop_of(loop.guard)._link.limits = limits
    loop.run(17)
    acting._tier.settle()
    assert acting._tier.steps == [12]


def test_ranks_write_the_snapshot_they_agreed_on_or_none(watch: Watch) -> None:
    """On a GPU the vote is known a step late, and another one may have been promised since; what
    was written is held no longer."""
    loop = Commanded(watch)
    acting = loop_of(loop.guard)._acting
    loop.run(2)
    acting._promised = promised = acting._ring.capture(2)
    agreed: Any = SimpleNamespace(writes=1)
    assert acting._take_promised(agreed) is None
    agreed.writes = 2
    assert acting._take_promised(agreed) is promised
    assert acting._promised is None


def test_the_moments_are_reset_and_gradients_clipped_on_order(watch: Watch) -> None:
    """From the next step on."""
    loop = Commanded(watch)
    loop.run(3)
    loop.order(command("c", "reset_moments"))
    loop.run()
    assert done(loop)["parameters"] > 0
    assert all(not t.any() for s in loop.optimizer.state.values() for t in s.values())
    loop.order(command("d", "set_clip", max_norm=1e-3))
    loop.run(2)
    norms = [p.grad.norm() for p in loop.model.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-3)
