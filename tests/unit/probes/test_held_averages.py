"""torch's own average of the weights does not move on for an update that was vetoed."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.unit.probes.loops import Tiny, Watch, loss_of, same, weights_of

pytestmark = pytest.mark.usefixtures("no_link")


class Averaged:
    """A training with an average of its weights, updated once in ``every`` steps."""

    def __init__(self, watch: Watch | None, *, fused: bool = False, every: int = 1) -> None:
        torch.manual_seed(0)
        self.model = Tiny()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=fused)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.every = every
        if watch is not None:
            watch(self.model, self.optimizer, policy="guard", extra={"ema": self.average})

    def step(self, seed: int, *, poisoned: bool = False) -> None:
        self.optimizer.zero_grad()
        (loss_of(self.model, seed) * (float("nan") if poisoned else 1.0)).backward()
        self.optimizer.step()
        if seed % self.every == self.every - 1:
            self.average.update_parameters(self.model)


def run(
    averaged: Averaged, *, poisoned: tuple[int, ...] = (), left_out: tuple[int, ...] = ()
) -> None:
    """Twenty steps."""
    for seed in range(20):
        if seed not in left_out:
            averaged.step(seed, poisoned=seed in poisoned)


def test_after_a_veto_the_average_is_as_if_the_bad_batch_had_not_been(watch: Watch) -> None:
    guarded, twin = Averaged(watch), Averaged(None)
    run(guarded, poisoned=(6, 7, 13))
    run(twin, left_out=(6, 7, 13))
    assert same(weights_of(guarded.average), weights_of(twin.average))
    assert int(guarded.average.n_averaged) == 17


def test_an_average_that_is_updated_once_an_epoch_is_left_alone(watch: Watch) -> None:
    """Though the veto hits the very last batch before it."""
    guarded = Averaged(watch, every=5)
    run(guarded, poisoned=(9, 14))
    assert int(guarded.average.n_averaged) == 4


def test_an_average_of_another_model_is_left_alone(watch: Watch) -> None:
    guarded, other = Averaged(watch), Tiny()
    average = AveragedModel(other)
    for seed in range(10):
        guarded.step(seed, poisoned=seed == 6)
        average.update_parameters(other)
    assert int(average.n_averaged) == 10


def test_a_fused_optimizer_keeps_its_verdict_and_the_average_goes_on(watch: Watch) -> None:
    guarded = Averaged(watch, fused=True)
    run(guarded, poisoned=(6,))
    assert int(guarded.average.n_averaged) == 20


def test_without_a_veto_every_update_counts(watch: Watch) -> None:
    guarded, twin = Averaged(watch), Averaged(None)
    run(guarded)
    run(twin)
    assert same(weights_of(guarded.average), weights_of(twin.average))
