"""Trainings that look like trouble to somebody who does not know them: data and schedules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import lossguard
from tests.scenarios.models import GPT, ConvNet, mlp
from tests.scenarios.scenario import begins, normal
from tests.scenarios.tasks import Pictures, Points, Text, cross_entropy


def _gpt(seed: int, length: int = 16) -> tuple[GPT, Text]:
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=length)
    return GPT(text.vocabulary, length=length, layers=1), text


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@normal("sequences twice as long, twice")
def longer_sequences(seed: int) -> int:
    """A curriculum: 8 characters at first, then 16, then 32."""
    model, text = _gpt(seed, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    guard = lossguard.attach(model, optimizer)
    second = begins(seed, 120, 140)
    for step in range(1, 401):
        x, y = text.batch()
        length = 8 if step < second else 16 if step < 2 * second else 32
        _update(model, optimizer, cross_entropy(model(x[:, :length]), y[:, :length]))
    guard.close()
    return second


@normal("another corpus from a step on: the loss goes up for good", may_warn=True)
def data_switch(seed: int) -> int:
    """From prose to verses without vowels, which are harder to tell."""
    model, text = _gpt(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    guard = lossguard.attach(model, optimizer)
    switched = begins(seed, 180, 220)
    swap = torch.randperm(text.vocabulary)
    for step in range(1, 401):
        x, y = text.batch()
        if step >= switched:  # a quarter of the lines are in another script from here on
            x[:2], y[:2] = swap[x[:2]], swap[y[:2]]
        _update(model, optimizer, cross_entropy(model(x), y))
    guard.close()
    return switched


@normal("the learning rate goes back up to its peak, three times")
def warm_restarts(seed: int) -> int:
    """SGDR."""
    model, text = _gpt(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=60, T_mult=2, eta_min=1e-5)
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    for _ in range(420):
        x, y = text.batch()
        _update(model, optimizer, cross_entropy(model(x), y))
        scheduler.step()
    guard.close()
    return 61


@normal("a rate that climbs for a third of the run; at its peak the loss jumps", may_warn=True)
def one_cycle(seed: int) -> int:
    """OneCycle, with its momentum against the rate."""
    torch.manual_seed(seed)
    pictures = Pictures(seed)
    model = ConvNet(pictures.classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=300)
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    for _ in range(300):
        x, y = pictures.batch()
        _update(model, optimizer, cross_entropy(model(x / 255.0), y))
        scheduler.step()
    guard.close()
    return 1


@normal("a warm-up from nothing to the peak rate")
def linear_warm_up(seed: int) -> int:
    """A hundred steps of it, then a cosine."""
    model, text = _gpt(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, fused=True)

    def factor(step: int) -> float:
        done = torch.tensor(max(0.0, (step - 100) / 300))
        return min(1.0, (step + 1) / 100) * float(0.55 + 0.45 * torch.cos(torch.pi * done))

    scheduler = LambdaLR(optimizer, factor)
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    for _ in range(400):
        x, y = text.batch()
        _update(model, optimizer, cross_entropy(model(x), y))
        scheduler.step()
    guard.close()
    return 1


@normal("the last batch of every epoch has three samples")
def partial_last_batch(seed: int) -> int:
    """A DataLoader without drop_last: a loss of three samples is a wild one."""
    torch.manual_seed(seed)
    points = Points(seed, samples=64 * 24 + 3)
    loader = DataLoader(TensorDataset(*points.train), batch_size=64, shuffle=True)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    for _ in range(14):
        for x, y in loader:
            _update(model, optimizer, cross_entropy(model(x), y))
    guard.close()
    return 25


@normal("four micro-batches to an update")
def accumulated_gradients(seed: int) -> int:
    """The usual division by their number."""
    model, text = _gpt(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, fused=True)
    guard = lossguard.attach(model, optimizer)
    for micro in range(4 * 200):
        x, y = text.batch()
        (cross_entropy(model(x[:4]), y[:4]) / 4).backward()
        if micro % 4 == 3:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    guard.close()
    return 1


@normal("label smoothing sets in, and the loss is another one", may_warn=True)
def label_smoothing_sets_in(seed: int) -> int:
    """From none to 0.1: the least possible loss rises."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    smooth_from = begins(seed, 150, 200)
    for step in range(1, 351):
        x, y = points.batch(64)
        smoothing = 0.1 if step >= smooth_from else 0.0
        loss = nn.functional.cross_entropy(model(x), y, label_smoothing=smoothing)
        _update(model, optimizer, loss)
    guard.close()
    return smooth_from


@normal("one batch in forty is of a harder task", may_warn=True)
def rare_task(seed: int) -> int:
    """Two heads on one body; the second is seldom asked, and its loss is three times as high."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = nn.ModuleDict(
        {"body": mlp(points.dims, 64, 64), "usual": nn.Linear(64, 4), "rare": nn.Linear(64, 32)}
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    for step in range(1, 501):
        x, y = points.batch(64)
        body = model["body"](x).relu()
        if step % 40 == 0:
            kind = (x[:, :5] > 0).long() @ torch.tensor([1, 2, 4, 8, 16])
            loss = cross_entropy(model["rare"](body), kind)
        else:
            loss = cross_entropy(model["usual"](body), y)
        _update(model, optimizer, loss)
    guard.close()
    return 40
