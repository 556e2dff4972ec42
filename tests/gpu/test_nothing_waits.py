"""No step of a watched training waits for the GPU, and none changes a bit."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from lossguard.probes import wire
from tests.gpu.training import Optimize, Training, fused, momentum, no_wait, plain
from tests.unit.probes.loops import Watch, loop_of, same

STEPS = 50


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("optimize", [fused, momentum])
@pytest.mark.parametrize("policy", ["observe", "guard"])
def test_no_step_waits_for_the_device(
    watch: Watch, policy: str, optimize: Optimize, scales: bool
) -> None:
    """Sampled ones, those with a snapshot, with bounds, with steps that are vetoed; and in the end
    it is the training that it would have been without."""
    bare = Training(optimize, scales=scales)
    bare.steps(STEPS)
    ours = Training(optimize, scales=scales)
    ours.guard = watch(ours.model, ours.optimizer, scaler=ours.scaler, policy=policy)
    loop = loop_of(ours.guard)
    loop._acting._ring._overhead = 1e9  # every five steps, however long they take
    ours.steps(20)
    loop._link.limits = wire.Limits(run=loop.run, version=1, grad_norm=1e6, loss=1e6)
    with no_wait():
        ours.steps(STEPS - 20)
    assert not loop._shield._off
    assert same(ours.losses, bare.losses)
    assert same(ours.state(), bare.state())
    assert (len(loop._acting._ring.steps) > 2) is (policy == "guard")


def test_a_wait_would_be_noticed() -> None:
    """A twin that reads its loss."""
    training = Training()
    training.steps(3)
    with no_wait(), pytest.raises(RuntimeError, match="synchroniz"):
        training.losses[-1].item()


def test_only_the_veto_of_an_optimizer_that_is_not_fused_waits(watch: Watch) -> None:
    """Under ``observe`` it does not either."""
    training = Training(plain)
    training.guard = watch(training.model, training.optimizer, policy="observe")
    training.steps(20)
    with no_wait():
        training.steps(20)
    assert not loop_of(training.guard)._shield._off


def test_an_evaluation_does_not_wait(watch: Watch) -> None:
    """Nor a step after one, nor one with batches kept and accumulation."""
    training = Training()
    training.guard = watch(training.model, training.optimizer, policy="guard")
    loop_of(training.guard)._recorder.last_steps.keep_batches()
    training.steps(20)
    batch = training._batches[0]
    with no_wait():
        for _ in range(3):
            training.model.eval()
            with torch.no_grad():
                for _ in range(4):
                    logits = training.model(batch).flatten(0, 1)
                    nn.functional.cross_entropy(logits, batch.flatten())
            training.model.train()
            training.steps(10)
    assert not loop_of(training.guard)._shield._off


@pytest.mark.parametrize("policy", ["observe", "guard"])
def test_the_memory_of_the_device_does_not_grow(watch: Watch, policy: str) -> None:
    """And what a watch takes of it is small."""
    bare = Training()
    bare.steps(10)
    del bare
    gc.collect()
    before = torch.cuda.memory_allocated()
    ours = Training()
    ours.guard = watch(ours.model, ours.optimizer, policy=policy)
    ours.steps(40)
    ours.losses.clear()
    early = torch.cuda.memory_allocated()
    ours.steps(64)
    ours.losses.clear()
    assert torch.cuda.memory_allocated() <= early
    ours.guard.close()
    ours.guard = None
    del ours
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 4096
