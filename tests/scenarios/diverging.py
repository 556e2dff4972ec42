"""Losses that go up and stay up."""

from __future__ import annotations

import torch

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import GPT, mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Points, Text, cross_entropy

STEPS = 300


@scenario(Symptom.DIVERGENCE, "a learning rate far too high from the start", within=30)
def rate_too_high(seed: int, *, healthy: bool) -> int:
    """AdamW at 1.0: every step throws the weights further out, from the first one on."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=16)
    model = GPT(text.vocabulary, length=16, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3 if healthy else 1.0, fused=True)
    guard = lossguard.attach(model, optimizer)
    for _ in range(120):
        x, y = text.batch()
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.DIVERGENCE, "the learning rate is raised thirty times in the middle", within=60)
def rate_raised(seed: int, *, healthy: bool) -> int:
    """Resumed with the configuration of another batch size: thirty times the rate from there on."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=16)
    model = GPT(text.vocabulary, length=16, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), fused=True)
    guard = lossguard.attach(model, optimizer)
    raised_at = begins(seed, 150, 220)
    for step in range(1, STEPS + 1):
        if step == raised_at and not healthy:
            for group in optimizer.param_groups:
                group["lr"] *= 30.0
        x, y = text.batch()
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return raised_at


@scenario(Symptom.DIVERGENCE, "labels shifted by one class from a step on", within=20)
def shifted_labels(seed: int, *, healthy: bool) -> int:
    """The second half of the data was written by code that counts classes from one."""
    torch.manual_seed(seed)
    points = Points(seed, wrong=0.02)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=1e-4)
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    shifted_at = begins(seed, 200, 260)
    for step in range(1, STEPS + 1):
        x, y = points.batch(64)
        if step >= shifted_at and not healthy:
            y = (y + 1) % points.classes
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    guard.close()
    return shifted_at
