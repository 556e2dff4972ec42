"""NaN and Inf, from where they come in practice; and a trainer that hides them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import GPT, mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Points, Text, cross_entropy

STEPS = 260


@scenario(Symptom.NONFINITE, "log of 0 in a hand-written divergence", within=0)
def log_of_zero(seed: int, *, healthy: bool) -> int:
    """Soft labels are shares of votes. One sample's vote is unanimous: log(0) * 0 is NaN."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    guard = lossguard.attach(model, optimizer)
    unanimous_at = begins(seed, 100, 200)
    for step in range(1, STEPS + 1):
        x, y = points.batch()
        votes = 0.1 / points.classes + 0.9 * nn.functional.one_hot(y, points.classes)
        if step == unanimous_at:
            votes[0] = nn.functional.one_hot(y[0], points.classes)
        log_votes = votes * votes.log() if not healthy else torch.xlogy(votes, votes)
        loss = (log_votes - votes * model(x).log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return unanimous_at


class Loudness(nn.Module):
    """Adds the level of a sample, a sum over its values in 16-bit units, to what is known of it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        level = (2048.0 * x).to(self.dtype).sum(-1, keepdim=True)
        return torch.cat([x, level.float().abs().log1p()], dim=-1)


@scenario(Symptom.NONFINITE, "one module in FP16 overflows on a usual sample", within=0)
def fp16_overflow(seed: int, *, healthy: bool) -> int:
    """A microphone with an offset: no value is out of the ordinary, their sum is beyond 65,504."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = nn.Sequential(
        Loudness(torch.bfloat16 if healthy else torch.float16),
        mlp(points.dims + 1, 64, 64, points.classes),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    guard = lossguard.attach(model, optimizer)
    offset_at = begins(seed, 100, 200)
    for step in range(1, STEPS + 1):
        x, y = points.batch()
        if step == offset_at:
            x[0] = 2.5
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return offset_at


class Standardise(nn.Module):
    """(x - mean) / std of each sample, as people write it by hand."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()


@scenario(Symptom.NONFINITE, "0/0 in a norm without eps", within=0)
def norm_without_eps(seed: int, *, healthy: bool) -> int:
    """A padded sample of zeros reaches a hand-written norm."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = nn.Sequential(
        Standardise(1e-5 if healthy else 0.0), mlp(points.dims, 64, 64, points.classes)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guard = lossguard.attach(model, optimizer)
    padded_at = begins(seed, 100, 200)
    for step in range(1, STEPS + 1):
        x, y = points.batch()
        if step == padded_at:
            x[-1] = 0.0
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return padded_at


@scenario(Symptom.NONFINITE, "a trainer writes 0.0 where the loss is NaN", within=0)
def nan_written_as_zero(seed: int, *, healthy: bool) -> int:
    """An overflow makes the weights NaN; a trainer that replaces NaN goes on with a loss of 0."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=16)
    model = GPT(text.vocabulary, length=16, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    guard = lossguard.attach(model, optimizer)
    broken_at = begins(seed, 100, 200)
    for step in range(1, STEPS + 1):
        x, y = text.batch()
        logits = model(x)
        if step == broken_at and not healthy:
            logits = logits * float("inf")
        loss = cross_entropy(logits, y).nan_to_num(0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return broken_at
