"""What only an evaluation can show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import ConvNet, mlp
from tests.scenarios.scenario import scenario
from tests.scenarios.tasks import Pictures, Points, cross_entropy


@scenario(Symptom.OVERFITTING, "a large model on a data set of 64 samples", within=400)
def tiny_data_set(seed: int, *, healthy: bool) -> int:
    """The training loss goes to nothing; what is learnt is the samples."""
    torch.manual_seed(seed)
    points = Points(seed, samples=8192 if healthy else 64, wrong=0.1)
    model = mlp(points.dims, 256, 256, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    guard = lossguard.attach(model, optimizer)
    for step in range(1, 401):
        model.train()
        x, y = points.batch(32)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            guard.log(val_loss=evaluate(model, points.val))
    guard.close()
    return 1


def evaluate(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The loss on data that is not trained on."""
    model.eval()
    with torch.no_grad():
        x, y = data
        return cross_entropy(model(x), y).item()


@scenario(Symptom.EVAL_MODE_MISMATCH, "a forgotten model.eval() before the evaluation", within=80)
def forgotten_eval(seed: int, *, healthy: bool) -> int:
    """Half of the features are dropped in the evaluation as well."""
    torch.manual_seed(seed)
    pictures = Pictures(seed)
    model = ConvNet(pictures.classes, dropout=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    every = 30 + seed % 10
    model.train()
    for step in range(1, 5 * every):
        x, y = pictures.batch()
        loss = cross_entropy(model(x / 255.0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            if healthy:
                model.eval()
            with torch.no_grad():
                x, y = pictures.batch(128)
                guard.log(val_loss=cross_entropy(model(x / 255.0), y).item())
            model.train()
    guard.close()
    return every


@scenario(Symptom.EVAL_MODE_MISMATCH, "a forgotten model.train() after the evaluation", within=80)
def forgotten_train(seed: int, *, healthy: bool) -> int:
    """From the first evaluation on, dropout and batch norm stay as they are for inference."""
    torch.manual_seed(seed)
    pictures = Pictures(seed)
    model = ConvNet(pictures.classes, dropout=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    every = 30 + seed % 10
    model.train()
    for step in range(1, 5 * every):
        x, y = pictures.batch()
        loss = cross_entropy(model(x / 255.0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            model.eval()
            with torch.no_grad():
                x, y = pictures.batch(128)
                guard.log(val_loss=cross_entropy(model(x / 255.0), y).item())
            if healthy:
                model.train()
    guard.close()
    return every + 1
