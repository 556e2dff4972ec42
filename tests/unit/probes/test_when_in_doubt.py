"""When in doubt, the guard does nothing and says so."""

from __future__ import annotations

import logging
import math
import threading

import pytest
import torch
from torch import nn

from lossguard.probes import wire
from lossguard.probes.outbox import Outbox
from lossguard.probes.reflex import Reflex
from tests.unit.probes.loops import Tiny, Watch, loop_of, loss_of, weights_of

pytestmark = pytest.mark.usefixtures("no_link")


def limits(loss: float) -> wire.Limits:
    """As the agent streams them."""
    return wire.Limits(run="run", version=1, loss=loss)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> bool:
    """One step; whether the weights moved."""
    before = weights_of(model)
    optimizer.zero_grad()
    loss_of(model, seed).backward()
    optimizer.step()
    return any(not torch.equal(a, b) for a, b in zip(before, weights_of(model), strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_bounds_end_with_the_agent_that_streamed_them(watch: Watch, fused: bool) -> None:
    """A bound that no longer follows the run must not freeze it."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    loop = loop_of(watch(model, optimizer, policy="guard"))
    assert train(model, optimizer)
    loop._link.limits = limits(0.001)
    assert not train(model, optimizer)
    loop._link.limits = None  # what the link does when the agent falls silent
    assert train(model, optimizer)


@pytest.mark.parametrize("bound", [1e39, math.inf, -math.inf, math.nan])
def test_a_bound_beyond_float32_is_no_bound(bound: float) -> None:
    """An explosion must not switch the reflex off."""
    parameter = nn.Parameter(torch.ones(1))
    reflex = Reflex(torch.optim.SGD([parameter], lr=1.0), torch.device("cpu"))
    reflex.set_bounds(bound, bound)
    verdict = reflex.verdict(torch.tensor(3.0), torch.tensor(3.0))
    assert verdict is not None
    assert verdict.item() == 0


def test_the_scripts_own_hook_finds_the_gradients_of_a_vetoed_step(watch: Watch) -> None:
    """What a veto holds back is given back before anybody else looks, also who came first."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[bool] = []
    optimizer.register_step_post_hook(
        lambda *_: seen.append(all(p.grad is not None for p in model.parameters()))
    )
    loop = loop_of(watch(model, optimizer, policy="guard"))
    loop._link.limits = limits(0.001)
    assert not train(model, optimizer)
    assert seen == [True]


def test_a_model_that_two_optimizers_train_is_observed(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a training is neither vetoed nor turned back."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.blocks.parameters())
    with caplog.at_level(logging.WARNING, "lossguard"):
        loop = loop_of(watch(model, optimizer, policy="guard"))
    assert loop._hello.policy == "observe"
    assert "embedding.weight" in caplog.text


def test_another_threads_training_is_left_alone(watch: Watch) -> None:
    """Its backward is not our loss, and our gradients are not looked at from there."""
    ours, theirs = Tiny(), Tiny()
    optimizer = torch.optim.AdamW(ours.parameters())
    loop = loop_of(watch(ours, optimizer))
    assert train(ours, optimizer)
    other = threading.Thread(target=lambda: loss_of(ours, 5).backward())
    before = loop.own_time_ns
    other.start()
    other.join()
    assert loop.own_time_ns == before
    assert loop._senses.tap.take() is None
    assert train(theirs, torch.optim.AdamW(theirs.parameters()))


def test_vetoes_by_bounds_are_counted_in_a_row(watch: Watch) -> None:
    """One that passes, or one that is not finite, begins the count anew."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    loop = loop_of(watch(model, optimizer, policy="guard"))
    outbox: Outbox = loop._outbox
    loop._link.limits = limits(0.001)
    for _ in range(3):
        train(model, optimizer)
    outbox.collect(wait=True)
    assert (outbox.over_bounds_in_a_row, outbox.num_vetoed, outbox.last_vetoed_step) == (3, 3, 3)
    loop._link.limits = None
    train(model, optimizer)
    outbox.collect(wait=True)
    assert (outbox.over_bounds_in_a_row, outbox.num_vetoed) == (0, 3)
