"""Batches that should not have been there."""

from __future__ import annotations

import torch
from torch import nn

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import GPT, mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Points, Text, cross_entropy

STEPS = 300


@scenario(Symptom.LOSS_SPIKE, "a poisoned batch: shuffled labels, inputs times 50", within=1)
def poisoned_batch(seed: int, *, healthy: bool) -> int:
    """A shard whose labels lost their order and whose features were never scaled."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    guard = lossguard.attach(model, optimizer)
    poisoned_at = begins(seed, 100, 250)
    for step in range(1, STEPS + 1):
        x, y = points.batch()
        if step == poisoned_at and not healthy:
            x, y = 50.0 * x, y[torch.randperm(len(y))]
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    guard.close()
    return poisoned_at


@scenario(Symptom.LOSS_SPIKE, "a shard of text that was read byte-swapped", within=3)
def swapped_shard(seed: int, *, healthy: bool) -> int:
    """Six batches of a damaged file: every pair of characters stands the wrong way round."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=16, length=16)
    model = GPT(text.vocabulary, length=16, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
    guard = lossguard.attach(model, optimizer)
    damaged_from = begins(seed, 200, 270)
    for step in range(1, STEPS + 1):
        x, y = text.batch()
        if damaged_from <= step < damaged_from + 6 and not healthy:
            y = y.unflatten(1, (-1, 2)).flip(-1).flatten(1)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    guard.close()
    return damaged_from


@scenario(Symptom.GRAD_SPIKE, "one giant sample", within=0)
def giant_sample(seed: int, *, healthy: bool) -> int:
    """A target in other units, in a regression with the squared error."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    giant_at = begins(seed, 100, 250)
    for step in range(1, STEPS + 1):
        x, _ = points.batch()
        target = x[:, 0] * x[:, 1] + x[:, 2] + 0.3 * torch.randn(len(x))
        if step == giant_at and not healthy:
            target[0] = 1000.0
        loss = (model(x)[:, 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    guard.close()
    return giant_at


@scenario(Symptom.GRAD_SPIKE, "a loss summed over one endless document", within=0)
def endless_document(seed: int, *, healthy: bool) -> int:
    """The loss is a sum over characters: one document of 8,000 of them among lines of 16."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=16)
    long = Text(seed, batch_size=1, length=8000)
    model = nn.Sequential(nn.Embedding(text.vocabulary, 32), mlp(32, 64, text.vocabulary))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    guard = lossguard.attach(model, optimizer)
    endless_at = begins(seed, 100, 250)
    for step in range(1, STEPS + 1):
        x, y = text.batch()
        if step == endless_at and not healthy:
            x, y = long.batch()
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
        loss = loss / 16
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    guard.close()
    return endless_at
