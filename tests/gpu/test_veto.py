"""On a GPU a vetoed update leaves no bit behind."""

from __future__ import annotations

import pytest
import torch

from lossguard.probes import wire
from tests.gpu.training import Optimize, Training, fused, momentum, no_wait, plain
from tests.unit.probes.loops import Watch, loop_of, same

BAD = 23


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("optimize", [fused, momentum, plain])
def test_a_step_that_is_not_finite_is_as_if_it_had_never_been(
    watch: Watch, optimize: Optimize, scales: bool
) -> None:
    """Weights, moments, counts; bare the weights are dead, or with GradScaler skipped by it."""
    reference = Training(optimize, dropout=0.0, leaves_out=(BAD,), scales=scales)
    reference.steps(40)
    ours = Training(optimize, dropout=0.0, spoils=(BAD,), scales=scales)
    ours.guard = watch(ours.model, ours.optimizer, scaler=ours.scaler, policy="guard")
    ours.steps(40)
    assert not loop_of(ours.guard)._shield._off
    differ = [
        float((a - b).abs().max()) for a, b in zip(ours.state(), reference.state(), strict=True)
    ]
    assert same(ours.state(), reference.state()), differ
    bare = Training(optimize, dropout=0.0, spoils=(BAD,))
    bare.steps(40)
    assert bool(torch.isnan(bare.state()[0]).any())


def test_a_bound_is_applied_on_the_device(watch: Watch) -> None:
    """Nothing waits, and the update is dropped."""
    ours = Training(fused, dropout=0.0)
    ours.guard = watch(ours.model, ours.optimizer, policy="guard")
    loop = loop_of(ours.guard)
    ours.steps(20)
    before = ours.state()
    with no_wait():
        loop._link.limits = wire.Limits(run=loop.run, version=1, grad_norm=1e-9)
        loop._link._heard_s = float("inf")
        ours.steps(1)
    assert same(ours.state(), before)
    loop._link.limits = wire.Limits(run=loop.run, version=2, grad_norm=1e9)
    ours.steps(1)
    assert not same(ours.state(), before)
