"""Commands and the learning-rate hold: once, in time, or with a reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from lossguard.errors import StopTraining
from lossguard.probes import wire
from lossguard.probes.learning_rate import LearningRateHold, learning_rate, lower_rates
from lossguard.probes.reflex import Reflex
from tests.unit.probes.commanded import Commanded, command
from tests.unit.probes.loops import Watch, loop_of, loss_of, same, weights_of

pytestmark = pytest.mark.usefixtures("no_link")


def test_a_command_is_carried_out_once_and_answered_as_often_as_it_comes(watch: Watch) -> None:
    """Sent twice at once, and again after a lost answer, it must not act twice."""
    loop = Commanded(watch)
    loop.run()
    lower = command("c1", "lower_lr", factor=0.5)
    loop.order(lower, lower)
    loop.run()
    loop.order(lower)
    loop.run()
    assert loop.schedule.base_lrs == [0.005]
    assert [(a.command, a.status) for a in loop.answers] == [("c1", "done")] * 2


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (command("c", "rollback", expires=1), "too late: step 2 is past 1"),
        (command("c", "mute"), "this run cannot do 'mute'"),
        (command("c", "set_clip", max_norm=0.0), "max_norm must be between"),
        (command("c", "set_loss_scale", scale=8.0), "there is no loss scale"),
        (command("c", "rollback", onset="soon"), "onset must be a number, got 'soon'"),
        (command("c", "rollback", onset=float("nan")), "onset must be between"),
        (command("c", "rollback", onset=-5), "onset must be between"),
        (command("c", "rollback", onset=1), "no snapshot from before step 0"),
        (command("c", "lower_lr", factor=2.0), "factor must be between"),
        (command("c", "lower_lr", factor=0.0), "factor must be between"),
        (command("no good id!", "lower_lr"), "not a command id"),
    ],
)
def test_what_cannot_be_done_is_answered_and_changes_nothing(
    watch: Watch, order: wire.Command, why: str
) -> None:
    """The run goes on as its twin without the command."""
    loop, twin = Commanded(watch), Commanded(watch)
    for one in (loop, twin):
        one.run()
    loop.order(order)
    for one in (loop, twin):
        one.run(2)
    assert same(loop.everything(), twin.everything())
    (answer,) = loop.answers
    assert answer.status == "failed"
    assert why in str(answer.result["why"])


def test_a_command_waits_for_its_step(watch: Watch) -> None:
    """However often it is sent before; what waits does not pile up."""
    loop = Commanded(watch)
    for _ in range(4):
        loop.order(command("c", "lower_lr", step=5))
        loop.run()
        assert len(loop_of(loop.guard)._waiting) == 1
    assert loop.answers == []
    loop.run(2)
    assert [(a.status, a.step) for a in loop.answers] == [("done", 5)]


def test_an_ordered_skip_drops_the_next_update_alone(watch: Watch) -> None:
    """Also in a run that is only observed: a person has said so."""
    for policy in ("observe", "guard"):
        for fused in (True, False):
            loop = Commanded(watch, policy, fused)
            loop.run()
            loop.order(command("c", "skip"))
            loop.run()
            before = weights_of(loop.model)
            loop.run()
            assert same(weights_of(loop.model), before)
            loop.run()
            assert not same(weights_of(loop.model), before)
            assert loop.records.of("skipped")[-2:] == [wire.SKIP_COMMAND, 0]


def test_a_skip_that_cannot_happen_is_not_promised(watch: Watch) -> None:
    """An optimizer that calls a closure computes its gradients inside: there is nothing to veto."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.LBFGS([weight], max_iter=2)
    model = torch.nn.Module()
    model.weight = weight
    guard = watch(model, optimizer, policy="guard")
    loop = loop_of(guard)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    loop._link.orders.append(command("c", "skip"))
    optimizer.step(closure)
    (answer,) = [word for word in loop._outbox.words if isinstance(word, wire.Ack)]
    assert answer.status == "failed"
    assert "closure" in str(answer.result["why"])


def test_a_rollback_goes_to_before_the_onset_and_replays_exactly(watch: Watch) -> None:
    """With the random generators, the same batches give the same losses, bitwise."""
    loop = Commanded(watch)
    loop_of(loop.guard)._acting._ring._min_interval = 1
    loop.run(10)
    losses = loop.records.of("loss")
    loop.order(command("c", "rollback", onset=9, random=1))
    loop.run()
    restored = int(loop.answers[0].result["restored_step"])
    assert restored <= 7
    loop.seed = restored
    loop.run(10 - restored)
    assert loop.records.of("loss")[11:] == losses[restored:]


def test_a_rollback_can_hold_the_learning_rate(watch: Watch) -> None:
    """The bug in the schedule is still there; the updates do not feel it, the schedule does."""
    loop = Commanded(watch)
    loop_of(loop.guard)._acting._ring._min_interval = 1
    loop.run(6)
    loop.order(command("c", "rollback", onset=6, hold_lr=1))
    loop.run()
    for group in loop.optimizer.param_groups:
        group["lr"] = 5.0
    before = weights_of(loop.model)
    loop.optimizer.zero_grad()
    loss_of(loop.model, 1).backward()
    loop.optimizer.step()
    assert loop.optimizer.param_groups[0]["lr"] == 5.0
    moved = max(
        float((a - b).abs().max()) for a, b in zip(weights_of(loop.model), before, strict=True)
    )
    assert moved < 0.1


def test_stop_is_raised_at_the_boundary_and_exits_with_75(watch: Watch) -> None:
    """The update has been made, ``except Exception`` does not swallow it, ``finally`` runs."""
    loop = Commanded(watch)
    loop.run()
    before = weights_of(loop.model)
    inner = loop_of(loop.guard)
    loop.order(command("c", "stop", reason="the loss is lost"))
    reached = []

    def script() -> None:
        try:
            try:
                loop.run()
            except Exception:
                reached.append("swallowed")
        finally:
            reached.append("finally")

    with pytest.raises(StopTraining) as stop:
        script()
    assert isinstance(stop.value, SystemExit)
    assert stop.value.code == 75
    assert stop.value.reason == "the loss is lost"
    assert reached == ["finally"]
    assert not same(weights_of(loop.model), before)
    assert inner._outbox.farewell is not None
    assert inner._outbox.farewell.reason == "stopped"
    loop.run()


# --- the learning rate ----------------------------------------------------------------------


def rates(*values: Any) -> torch.optim.Optimizer:
    """An optimizer with one group a rate."""
    groups: list[dict[str, Any]] = [
        {"params": [nn.Parameter(torch.ones(1))], "lr": value} for value in values
    ]
    return torch.optim.SGD(groups)


def lrs(optimizer: torch.optim.Optimizer) -> list[float]:
    """As numbers."""
    return [round(float(group["lr"]), 6) for group in optimizer.param_groups]


def test_a_hold_caps_each_group_and_gives_the_scripts_value_back() -> None:
    """Numbers and tensors; a group without a cap, or below it, is left alone."""
    tensor = torch.tensor(3.0)
    optimizer = rates(1.0, tensor, 0.01, 7.0)
    hold = LearningRateHold(optimizer)
    hold.hold([0.5, 0.25, 0.5, None], until_step=10)
    assert hold.apply(1)
    assert lrs(optimizer) == [0.5, 0.25, 0.01, 7.0]
    hold.release()
    hold.release()
    assert lrs(optimizer) == [1.0, 3.0, 0.01, 7.0]
    assert optimizer.param_groups[1]["lr"] is tensor


def test_a_hold_ends_after_its_steps() -> None:
    """The last step it covers is the one named."""
    optimizer = rates(1.0)
    hold = LearningRateHold(optimizer)
    hold.hold([0.5], until_step=3)
    seen = []
    for step in range(1, 6):
        hold.apply(step)
        seen.append(lrs(optimizer)[0])
        hold.release()
    assert seen == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert hold.steps_held == 3


def test_what_the_script_sets_meanwhile_is_not_overwritten() -> None:
    """A step that died, a script that lowered its rate, then the release."""
    optimizer = rates(1.0)
    hold = LearningRateHold(optimizer)
    hold.hold([0.5], until_step=3)
    hold.apply(1)
    optimizer.param_groups[0]["lr"] = 0.125
    hold.release()
    assert lrs(optimizer) == [0.125]


def test_the_rate_of_a_run_is_the_highest_of_its_groups() -> None:
    """Tensors on the host count; on a device they would have to be waited for."""
    assert learning_rate(rates(0.1, torch.tensor(0.5))) == 0.5
    assert learning_rate(rates(torch.ones((), device="meta"))) is None


def _sequence(o: torch.optim.Optimizer) -> Any:
    parts = [lr_scheduler.ConstantLR(o, 1.0), lr_scheduler.ExponentialLR(o, 0.9)]
    return lr_scheduler.SequentialLR(o, parts, milestones=[2])


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0 + 0.1 * step),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 50),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=50),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, cycle_momentum=False),
    "sequence": _sequence,
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 50),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_lowered_rate_stays_lowered_whatever_the_schedule(name: str) -> None:
    """The schedule goes on from the new level: the same curve, a tenth as high."""
    optimizer, twin = rates(1.0), rates(1.0)
    optimizer.param_groups[0]["momentum"] = twin.param_groups[0]["momentum"] = 0.9
    schedule, other = SCHEDULES[name](optimizer), SCHEDULES[name](twin)
    for step in range(12):
        if step == 4:
            lower_rates(optimizer, [schedule], 0.1)
        factor = 0.1 if step >= 4 else 1.0
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            twin.param_groups[0]["lr"] * factor, rel=1e-3
        )
        for one in (optimizer, twin):
            one.step()
        schedule.step()
        other.step()


def test_a_rate_that_is_a_tensor_is_lowered_in_place() -> None:
    """A compiled or captured step reads that very tensor."""
    tensor = torch.tensor(1.0)
    optimizer = rates(tensor)
    lower_rates(optimizer, [], 0.5)
    assert float(tensor) == 0.5
    assert isinstance(Reflex(optimizer, torch.device("cpu")), Reflex)
