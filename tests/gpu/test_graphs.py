"""Captured graphs and compiled models train on as they would bare."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.gpu.training import DEVICE, Training, fused
from tests.unit.probes.loops import Watch, loop_of, same


def captured_losses(guard_it: object) -> tuple[list[float], list[torch.Tensor]]:
    """Forward, backward and update captured once, as PyTorch's documentation shows it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True, capturable=True)
    if callable(guard_it):
        guard_it(model, optimizer)
    inputs = [torch.randn(8, 8, device=DEVICE) for _ in range(20)]
    static = inputs[0].clone()

    def whole_step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: torch.Tensor = model(static).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            whole_step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = whole_step()
    losses = []
    for x in inputs:
        static.copy_(x)
        graph.replay()
        losses.append(float(loss.detach()))
    return losses, [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("policy", ["observe", "guard"])
def test_a_step_that_is_captured_whole_replays_as_it_would_bare(
    watch: Watch, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is captured cannot be watched; and it is not broken."""
    bare = captured_losses(None)
    guards = []

    def guard_it(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        guards.append(watch(model, optimizer, policy=policy))

    ours = captured_losses(guard_it)
    assert ours[0] == bare[0]
    assert same(ours[1], bare[1])
    assert "captured into a CUDA graph" in caplog.text
    assert guards[0].step == 3
    assert guards[0]._loop is None or not loop_of(guards[0]).is_alive


@pytest.mark.parametrize("policy", ["observe", "guard"])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model_trains_on(watch: Watch, policy: str, mode: str) -> None:
    """With CUDA graphs of the compiler's own (``reduce-overhead``) too."""
    found = []
    for watched in (False, True):
        torch._dynamo.reset()
        training = Training(fused, dropout=0.0)
        model = training.model
        compiled = torch.compile(model, mode=mode)
        if watched:
            training.guard = watch(model, training.optimizer, policy=policy)
        for number in range(1, 31):
            torch.compiler.cudagraph_mark_step_begin()
            training.optimizer.zero_grad()
            batch = training._batches[number]
            logits = compiled(batch).flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, batch.flatten())
            loss.backward()
            training.losses.append(loss.detach().clone())
            training.optimizer.step()
        found.append((training.losses, [p.detach().clone() for p in model.parameters()]))
        if training.guard is not None:
            assert not loop_of(training.guard)._shield._off
            assert training.guard.step == 30
    assert same(found[0][0], found[1][0])
    assert same(found[0][1], found[1][1])
