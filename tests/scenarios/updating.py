"""Between the gradient and the weights: optimizer state, loss scale, clipping, learning rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import lossguard
from lossguard.detectors import Severity, Symptom
from tests.scenarios.models import mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Points, cross_entropy

STEPS = 300


@scenario(Symptom.OPTIMIZER_STATE, "one giant gradient in Adam's second moment", within=100)
def poisoned_moments(seed: int, *, healthy: bool) -> int:
    """Without clipping, one target in other units makes the updates tiny for a thousand steps."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, 1, activation=nn.GELU)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    guard = lossguard.attach(model, optimizer)
    giant_at = begins(seed, 100, 200)
    for step in range(1, giant_at + 101):
        x, _ = points.batch(64)
        target = x[:, 0] * x[:, 1] + x[:, 2] + 0.3 * torch.randn(len(x))
        if step == giant_at and not healthy:
            target[0] = 1e5
        loss = (model(x)[:, 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return giant_at


class Offset(nn.Module):
    """A learnt distance to the origin whose gradient is infinite at the origin: sqrt(0)."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        gap = (self.scale - self.scale.detach()).square()
        return x + (gap + 1e-6 if self.safe else gap).sqrt()


@scenario(Symptom.LOSS_SCALE, "a gradient that overflows at every scale", within=40)
def collapsing_scale(seed: int, *, healthy: bool) -> int:
    """The derivative of a square root at 0 is infinite at every loss scale: GradScaler halves it
    at each step and drops every update."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = nn.Sequential(mlp(points.dims, 64, 64, points.classes), Offset(safe=healthy))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cpu")
    guard = lossguard.attach(model, optimizer, scaler=scaler)
    faulty_from = begins(seed, 100, 150)
    for step in range(1, STEPS + 1):
        x, y = points.batch(64)
        with torch.autocast("cpu", torch.float16):
            logits = model[0](x)
        loss = cross_entropy(model[1](logits.float()) if step >= faulty_from else logits.float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    guard.close()
    return faulty_from


@scenario(
    Symptom.CLIPPING, "a bound for clipping that is far too low", within=750, least=Severity.INFO
)
def clipped_always(seed: int, *, healthy: bool) -> int:
    """max_norm is in the units of another loss: every single step is clipped."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    for _ in range(750):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0 if healthy else 0.01)
        optimizer.step()
    guard.close()
    return 1


@scenario(Symptom.LR_JUMP, "a bug in the schedule: the rate times 100", within=1)
def rate_jumps(seed: int, *, healthy: bool) -> int:
    """A table of rates with one entry in per cent."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    jumps_at = begins(seed, 100, 200)

    def factor(step: int) -> float:
        bug = 100.0 if jumps_at - 1 <= step < jumps_at + 9 and not healthy else 1.0
        return bug * min(1.0, (step + 1) / 30) * (1.0 - 0.9 * step / STEPS)

    scheduler = LambdaLR(optimizer, factor)
    guard = lossguard.attach(model, optimizer, scheduler=scheduler)
    for _ in range(STEPS):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    guard.close()
    return jumps_at
