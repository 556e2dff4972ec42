"""Gradients that fade or grow on their way through the layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import GPT, Recurrent, mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Points, Series, Text, cross_entropy

STEPS = 280
DEPTH = 8


@scenario(Symptom.VANISHING_GRADIENT, "a deep network of sigmoids", within=280)
def deep_sigmoids(seed: int, *, healthy: bool) -> int:
    """Every sigmoid passes on a quarter of the gradient at most; a ReLU passes it on whole."""
    torch.manual_seed(seed)
    points = Points(seed)
    widths = [points.dims, *[48] * DEPTH, points.classes]
    model = mlp(*widths, activation=nn.ReLU if healthy else nn.Sigmoid)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    for _ in range(STEPS):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.VANISHING_GRADIENT, "weights that start ten times too small", within=100)
def tiny_weights(seed: int, *, healthy: bool) -> int:
    """A stack of tanh layers whose signal, and gradient, shrinks at every one of them."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, *[48] * DEPTH, points.classes, activation=nn.Tanh)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, gain=1.0 if healthy else 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guard = lossguard.attach(model, optimizer)
    for _ in range(STEPS):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.VANISHING_GRADIENT, "a deep post-norm transformer without warm-up", within=250)
def no_warm_up(seed: int, *, healthy: bool) -> int:
    """The same peak rate, at once in one case and after a linear warm-up in the other: without it
    the first steps saturate the norms, and the lower layers are cut off."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=16)
    model = GPT(text.vocabulary, length=16, layers=3, post_norm=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2, fused=True)
    warm_up = 600 if healthy else 1
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    for _ in range(250):
        x, y = text.batch()
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    guard.close()
    return 1


@scenario(Symptom.EXPLODING_GRADIENT, "weights that start at a deviation of one", within=100)
def huge_weights(seed: int, *, healthy: bool) -> int:
    """``nn.init.normal_(weight)`` as it is: deep tanh layers in their chaotic phase, where the
    signal stays within bounds and the gradient grows at every layer on its way back."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, *[48] * 12, points.classes, activation=nn.Tanh)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5 if healthy else 1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    guard = lossguard.attach(model, optimizer)
    for _ in range(STEPS):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.EXPLODING_GRADIENT, "recurrent weights that grow, and no clipping", within=150)
def growing_recurrence(seed: int, *, healthy: bool) -> int:
    """A decay with the wrong sign on the recurrent weights: past 1 the gradient grows with every
    step of the series."""
    torch.manual_seed(seed)
    series = Series(seed, length=20)
    model = Recurrent(series.dims, series.classes, kind="relu")
    recurrent: Tensor = model.rnn.get_parameter("weight_hh_l0")
    recurrent.data.copy_(0.9 * torch.eye(len(recurrent)))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    grows_from = begins(seed, 150, 200)
    for step in range(1, grows_from + 200):
        x, y = series.batch(32)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= grows_from:
            recurrent.data.mul_(0.9999 if healthy else 1.004)
    guard.close()
    return grows_from
