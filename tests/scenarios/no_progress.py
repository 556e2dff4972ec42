"""Losses that swing, stand still, or fall too slowly."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, StepLR

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import NextCharacter, mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Points, Text, cross_entropy


@scenario(Symptom.OSCILLATION, "full-batch descent just above 2 / sharpness", within=220)
def edge_of_stability(seed: int, *, healthy: bool) -> int:
    """Counts, fitted by Poisson regression with a little jitter: the warm-up takes the rate past
    what the curvature bears, and from there on every step overshoots the valley."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 8, generator=generator) / 8**0.5
    expected = (x @ torch.randn(8, generator=generator) + 1.0).exp()
    counts = torch.poisson(expected, generator=generator)
    with_bias = torch.cat([x, torch.ones(512, 1)], dim=1)
    hessian = with_bias.T @ (expected[:, None] * with_bias) / len(x)
    stable = 2.0 / float(torch.linalg.eigvalsh(hessian)[-1])
    torch.manual_seed(seed)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=(0.9 if healthy else 1.2) * stable)
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 300))
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    for _ in range(480):
        jittered = x + 0.02 * torch.randn(x.shape)
        loss = nn.functional.poisson_nll_loss(model(jittered)[:, 0], counts, log_input=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    guard.close()
    return 250


@scenario(Symptom.OSCILLATION, "gradients that come twenty steps late", within=200)
def stale_gradients(seed: int, *, healthy: bool) -> int:
    """Slow workers, small batches, and a rate that bears no delay: every correction comes when the
    opposite one is due."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, points.classes, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    guard = lossguard.attach(model, optimizer)
    late_from = begins(seed, 200, 250)
    on_their_way: deque[list[Tensor]] = deque()
    for step in range(1, late_from + 200):
        x, y = points.batch(16)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        on_their_way.append([p.grad for p in model.parameters() if p.grad is not None])
        delay = 20 if step >= late_from and not healthy else 0
        while len(on_their_way) > delay + 1:
            on_their_way.popleft()
        for parameter, gradient in zip(model.parameters(), on_their_way[0], strict=True):
            parameter.grad = gradient
        optimizer.step()
    guard.close()
    return late_from


@scenario(Symptom.OSCILLATION, "a batch of two at a rate for large batches", within=480)
def tiny_batch(seed: int, *, healthy: bool) -> int:
    """A gradient that is mostly noise: up and down, and no progress."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    guard = lossguard.attach(model, optimizer)
    for _ in range(480):
        x, y = points.batch(64 if healthy else 2)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.PLATEAU, "a learning rate far too low", within=300)
def rate_too_low(seed: int, *, healthy: bool) -> int:
    """A rate of 1e-8, from a configuration in other units: nothing is learnt."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=64, length=6)
    model = NextCharacter(text.vocabulary, text.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3 if healthy else 1e-8, fused=True)
    guard = lossguard.attach(model, optimizer)
    for _ in range(350):
        x, y = text.batch()
        loss = cross_entropy(model(x), y[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.PLATEAU, "a dead network, stuck at what guessing gives", within=400)
def dead_network(seed: int, *, healthy: bool) -> int:
    """All hidden biases start at -10: no ReLU ever opens, and only the last bias learns."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    if not healthy:
        for layer in (model[0], model[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.constant_(layer.bias, -10.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0)
    guard = lossguard.attach(model, optimizer)
    for _ in range(450):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@scenario(
    Symptom.SLOW_CONVERGENCE, "a scheduler that is stepped by batch, not by epoch", within=600
)
def rate_dropped_early(seed: int, *, healthy: bool) -> int:
    """A hundredth of the rate after so many epochs was meant; it comes after so many steps."""
    return _with_a_rate_that_drops(seed, 600, healthy=healthy)


@scenario(
    Symptom.SLOW_CONVERGENCE,
    "the same, and the loss of a run that went well is known",
    within=900,
    against_a_good_run=True,
)
def behind_the_last_run(seed: int, *, healthy: bool) -> int:
    """What a run cannot tell by itself, its predecessor can."""
    return _with_a_rate_that_drops(seed, 900, healthy=healthy)


def _with_a_rate_that_drops(seed: int, more_steps: int, *, healthy: bool) -> int:
    torch.manual_seed(seed)
    text = Text(seed, batch_size=128, length=6)
    model = NextCharacter(text.vocabulary, text.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    dropped_at = begins(seed, 320, 380)
    scheduler = StepLR(optimizer, step_size=dropped_at, gamma=0.01)
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    for step in range(1, dropped_at + more_steps):
        x, y = text.batch()
        loss = cross_entropy(model(x), y[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not healthy or step % 50 == 0:
            scheduler.step()
    guard.close()
    return dropped_at + 1
