"""Layers that die, saturate, drift or grow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import NextCharacter, mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Pictures, Points, Text, cross_entropy

STEPS = 350


@scenario(Symptom.DEAD_UNITS, "one giant step pushes the units far below zero", within=120)
def dead_relus(seed: int, *, healthy: bool) -> int:
    """A sample weight that was never normalised, and no clipping: after that step the second layer
    never opens again."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guard = lossguard.attach(model, optimizer)
    giant_at = begins(seed, 100, 150)
    for step in range(1, STEPS + 1):
        x, y = points.batch(64)
        weight = 1e4 if step == giant_at and not healthy else 1.0
        loss = weight * cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return giant_at


@scenario(Symptom.DEAD_UNITS, "weights drawn from 0 to 1, into sigmoids", within=250)
def saturated_sigmoids(seed: int, *, healthy: bool) -> int:
    """``torch.rand`` where it should be around zero: all that is summed up is far on the right of
    every sigmoid, all samples look alike, and nothing is learnt."""
    torch.manual_seed(seed)
    pictures = Pictures(seed)
    model = nn.Sequential(nn.Flatten(), mlp(144, 64, 64, pictures.classes, activation=nn.Sigmoid))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound if healthy else 0.0, bound if healthy else 1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    for _ in range(250):
        x, y = pictures.batch(64)
        loss = cross_entropy(model(x / 255.0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.ACTIVATION_DRIFT, "a z-loss with the wrong sign", within=500)
def drifting_logits(seed: int, *, healthy: bool) -> int:
    """Softmax does not see what all logits share, so nothing but the z-loss holds it back; here it
    pushes."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=64, length=6)
    model = NextCharacter(text.vocabulary, text.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    guard = lossguard.attach(model, optimizer)
    pushed_from = begins(seed, 540, 580)
    for step in range(1, pushed_from + 500):
        x, y = text.batch()
        logits = model(x)
        z_loss = 5e-2 * logits.logsumexp(-1).square().mean()
        sign = 1.0 if healthy or step < pushed_from else -1.0
        loss = cross_entropy(logits, y[:, -1]) + sign * z_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return pushed_from


class Residual(nn.Module):
    """A residual path with branches, and a norm before the head, as in a transformer."""

    def __init__(self, dims: int, classes: int, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(dims, 32)
        self.blocks = nn.ModuleList(mlp(32, 32, 32) for _ in range(blocks))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


@scenario(Symptom.ACTIVATION_DRIFT, "a weight decay with the wrong sign", within=600)
def residual_growth(seed: int, *, healthy: bool) -> int:
    """The branches' weights grow by 0.3 per cent a step, and the residual path with
    them; the norm before the head hides it from the loss."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = Residual(points.dims, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    guard = lossguard.attach(model, optimizer)
    pushed_from = begins(seed, 540, 580)
    for step in range(1, pushed_from + 600):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = -0.003 if step >= pushed_from and not healthy else 1e-4
        with torch.no_grad():
            for parameter in model.blocks.parameters():
                parameter.mul_(1.0 - decay)
    guard.close()
    return pushed_from


@scenario(Symptom.WEIGHT_GROWTH, "an embedding with a rate a hundred times too high", within=120)
def hot_embedding(seed: int, *, healthy: bool) -> int:
    """A group of its own without decay, whose rate in the second phase was meant for another
    optimizer."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=64, length=6)
    model = NextCharacter(text.vocabulary, text.length)
    nn.init.normal_(model.tokens.weight, std=0.02)
    optimizer = torch.optim.AdamW(model.body.parameters(), lr=1e-3)
    optimizer.add_param_group({"params": model.tokens.parameters(), "weight_decay": 0.0})
    guard = lossguard.attach(model, optimizer)
    second_phase = begins(seed, 200, 250)
    for step in range(1, second_phase + 120):
        if step == second_phase and not healthy:
            optimizer.param_groups[1]["lr"] = 0.1
        x, y = text.batch()
        loss = cross_entropy(model(x), y[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return second_phase
