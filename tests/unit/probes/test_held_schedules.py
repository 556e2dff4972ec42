"""Learning-rate schedules do not move on for an update that was vetoed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from tests.unit.probes.commanded import command
from tests.unit.probes.loops import Tiny, Watch, loop_of, loss_of, same, weights_of

pytestmark = pytest.mark.usefixtures("no_link")

Make = Callable[[torch.optim.Optimizer], Any]
SCHEDULES: dict[str, Make] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 40),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=40),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 30)],
        [4],
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=9), lr_scheduler.ExponentialLR(o, 0.97)]
    ),
}


class Scheduled:
    """A guarded training with a schedule; some of its batches are poisoned."""

    def __init__(self, watch: Watch | None, make: Make, *, fused: bool = False) -> None:
        torch.manual_seed(0)
        self.model = Tiny()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=fused)
        self.schedule = make(self.optimizer)
        self.guard = None
        if watch is not None:
            self.guard = watch(self.model, self.optimizer, policy="guard", scheduler=self.schedule)

    def step(self, seed: int, *, poisoned: bool = False, schedules: int = 1) -> None:
        self.optimizer.zero_grad()
        loss = loss_of(self.model, seed) * (float("inf") if poisoned else 1.0)
        loss.backward()
        self.optimizer.step()
        for _ in range(schedules):
            self.schedule.step()

    def everything(self) -> Any:
        moments = [t.clone() for s in self.optimizer.state.values() for t in s.values()]
        groups = [
            {k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups
        ]
        return weights_of(self.model), moments, groups, self.schedule.get_last_lr()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_after_a_veto_all_is_as_if_the_bad_batch_had_not_been(watch: Watch, kind: str) -> None:
    """Two in a row, and one more: weights, moments, rates and schedule are those of a twin."""
    guarded, twin = (Scheduled(w, SCHEDULES[kind]) for w in (watch, None))
    for seed in range(20):
        poisoned = seed in (6, 7, 13)
        guarded.step(seed, poisoned=poisoned)
        if not poisoned:
            twin.step(seed)
    assert same(guarded.everything(), twin.everything())


def test_a_schedule_that_is_stepped_once_an_epoch_is_left_alone(watch: Watch) -> None:
    """The veto hits the last batch of an epoch, just before the schedule's own step."""
    guarded, twin = (Scheduled(w, SCHEDULES["lambda"]) for w in (watch, None))
    for seed in range(20):
        last = seed % 5 == 4
        guarded.step(seed, poisoned=seed == 9, schedules=int(last))
        if seed != 9:
            twin.step(seed, schedules=int(last))
        elif last:
            twin.schedule.step()
    assert same(guarded.everything(), twin.everything())


def test_a_schedule_that_is_stepped_twice_is_left_alone(watch: Watch) -> None:
    guarded = Scheduled(watch, SCHEDULES["lambda"])
    for seed in range(10):
        guarded.step(seed, poisoned=seed == 6, schedules=2)
    assert guarded.schedule.last_epoch == 20


def test_a_rate_that_the_script_sets_by_itself_is_left_alone(watch: Watch) -> None:
    guarded = Scheduled(watch, SCHEDULES["lambda"])
    for seed in range(10):
        guarded.step(seed, poisoned=seed == 6)
        guarded.optimizer.param_groups[0]["lr"] = 0.001 * (seed + 1)
    assert guarded.optimizer.param_groups[0]["lr"] == 0.01
    assert guarded.schedule.last_epoch == 10


def test_without_a_veto_nothing_is_touched(watch: Watch) -> None:
    guarded, twin = (Scheduled(w, SCHEDULES["cosine"]) for w in (watch, None))
    for seed in range(10):
        guarded.step(seed)
        twin.step(seed)
    assert same(guarded.everything(), twin.everything())


def test_the_verdict_of_a_fused_optimizer_stays_on_the_device_and_schedules_go_on(
    watch: Watch,
) -> None:
    guarded = Scheduled(watch, SCHEDULES["lambda"], fused=True)
    for seed in range(10):
        guarded.step(seed, poisoned=seed == 6)
    assert guarded.schedule.last_epoch == 10


def test_a_rollback_at_a_vetoed_step_is_not_taken_back_any_further(watch: Watch) -> None:
    """The schedule comes back as it was after the snapshot's update, and the script steps it."""
    guarded = Scheduled(watch, SCHEDULES["lambda"])
    assert guarded.guard is not None
    for seed in range(5):
        guarded.step(seed)
    guarded.guard.snapshot()
    epoch = guarded.schedule.last_epoch
    for seed in range(5, 10):
        guarded.step(seed)
    loop_of(guarded.guard)._link.orders.append(command("c1", "rollback", onset=7))
    guarded.step(10, poisoned=True)
    assert guarded.schedule.last_epoch == epoch + 1
    guarded.step(11)
    assert guarded.schedule.last_epoch == epoch + 2
