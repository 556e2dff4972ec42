"""What is ordered about an optimizer is done in place, or refused and nothing changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lossguard.probes.interventions import CannotDo, ClipBound, reset_moments, set_loss_scale

OPTIMIZERS: list[Any] = [
    lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    lambda p: torch.optim.Adam(p, lr=0.1, foreach=True, capturable=False),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.9),
    lambda p: torch.optim.Adagrad(p, lr=0.1),
    lambda p: torch.optim.Adamax(p, lr=0.1),
    lambda p: torch.optim.Adadelta(p, lr=0.1),
]


def train(model: nn.Module, optimizer: Any, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_after_a_reset_an_optimizer_goes_on_like_a_new_one(make: Any) -> None:
    """Bit for bit, over several steps: the bias correction begins anew as well."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = make(model.parameters())
    train(model, optimizer, 5, seed=1)
    twin = copy.deepcopy(model)
    assert reset_moments([optimizer]) == 2
    train(model, optimizer, 5, seed=2)
    train(twin, make(twin.parameters()), 5, seed=2)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_that_holds_more_than_moments_is_left_alone() -> None:
    """Schedule-free optimizers keep a copy of the weights there."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    optimizer.state[parameter]["z"] = parameter.detach().clone()
    before = copy.deepcopy(optimizer.state[parameter])
    with pytest.raises(CannotDo, match="keeps z"):
        reset_moments([optimizer])
    assert all(torch.equal(before[key], optimizer.state[parameter][key]) for key in before)


def test_a_loss_scale_is_set_and_grows_on_from_there() -> None:
    """Its growth is counted anew; without a scaler there is nothing to set."""
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=2)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)

    def step() -> None:
        scaler.scale(parameter.sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    step()
    assert set_loss_scale(scaler, 1024.0) == 1024.0
    scales = []
    for _ in range(3):
        step()
        scales.append(scaler.get_scale())
    assert scales == [1024.0, 2048.0, 2048.0]
    for nothing in (None, torch.amp.GradScaler("cpu")):
        with pytest.raises(CannotDo, match="no loss scale"):
            set_loss_scale(nothing, 1.0)


@pytest.mark.parametrize(("max_norm", "expected"), [(1.0, 1.0), (100.0, 5.0), (5.0, 5.0)])
def test_gradients_are_clipped_like_torch_does(max_norm: float, expected: float) -> None:
    """Only where they are over the bound, and scaled ones by what they are un-scaled."""
    clip = ClipBound()
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))]
    optimizer = torch.optim.SGD([*parameters, nn.Parameter(torch.zeros(1))], lr=1.0)

    def norm_after(scale: float) -> float:
        gradients = [torch.tensor([3.0 * scale]), torch.tensor([0.0, 4.0 * scale])]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        clip.apply(torch.tensor(5.0), optimizer)
        return float(torch.cat(gradients).norm())

    assert norm_after(1.0) == 5.0, "no bound, no change"
    clip.max_norm = max_norm
    assert norm_after(1.0) == pytest.approx(expected, rel=1e-5)
    assert norm_after(1024.0) == pytest.approx(1024 * expected, rel=1e-5)
