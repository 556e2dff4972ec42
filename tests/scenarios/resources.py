"""What the machine is short of, and what the user would lose."""

from __future__ import annotations

import random
import time

import torch
from torch import Tensor

import lossguard
from lossguard.detectors import Severity, Symptom
from tests.scenarios.models import mlp
from tests.scenarios.scenario import scenario
from tests.scenarios.tasks import Points, cross_entropy


@scenario(Symptom.LOW_GPU_UTILIZATION, "a GPU that waits (reported by the script)", within=380)
def idle_gpu(seed: int, *, healthy: bool) -> int:
    """There is no GPU in this test: the script reports the utilisation it would have."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    noise = random.Random(seed)
    for _ in range(380):
        x, y = points.batch()
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        guard.log(gpu_utilization=(0.93 if healthy else 0.05) + noise.uniform(-0.04, 0.04))
        optimizer.step()
        time.sleep(0.5)
    guard.close()
    return 1


@scenario(
    Symptom.MEMORY_GROWTH,
    "losses that are kept with their graphs",
    within=1100,
    least=Severity.INFO,
)
def kept_graphs(seed: int, *, healthy: bool) -> int:
    """``history.append(loss)`` in place of ``loss.item()``: every activation stays."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 128, 128, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    history: list[Tensor | float] = []
    for _ in range(1100):
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step()
        history.append(loss.item() if healthy else loss)
        time.sleep(1.0)
    guard.close()
    return 1


@scenario(Symptom.NO_CHECKPOINT, "seven hours without a checkpoint", within=260)
def never_saved(seed: int, *, healthy: bool) -> int:
    """A step of 100 seconds, and no line that saves anything."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    for step in range(1, 261):
        x, y = points.batch()
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(100.0)
        if healthy and step % 9 == 0:
            save(model)
    guard.close()
    return 1


def save(model: torch.nn.Module) -> None:
    """A checkpoint every quarter of an hour, to where it costs nothing."""
    torch.save(model.state_dict(), "/dev/null")
