"""What the data brings in, or does not bring in time."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import lossguard
from lossguard.detectors import Symptom
from tests.scenarios.models import GPT, mlp
from tests.scenarios.scenario import begins, scenario
from tests.scenarios.tasks import Points, Text, cross_entropy

STEPS = 300


@scenario(Symptom.OUTPUT_COLLAPSE, "padding that is trained as the end of the text", within=120)
def padding_as_end(seed: int, *, healthy: bool) -> int:
    """From some shard on the documents are short, and nobody told the loss to ignore what fills
    them up: nearly all targets are the same token."""
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=16)
    end = text.vocabulary
    model = GPT(text.vocabulary + 1, length=16, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    guard = lossguard.attach(model, optimizer)
    short_from = begins(seed, 130, 170)
    for step in range(1, STEPS + 50):
        x, y = text.batch()
        if step >= short_from and not healthy:
            x[:, 2:] = end
            y[:, 1:] = end
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    guard.close()
    return short_from


@scenario(Symptom.BAD_BATCH, "a document of one repeated character", within=0)
def repeated_character(seed: int, *, healthy: bool) -> int:
    """A page of dots from a table of contents fills a whole batch."""
    return _train_on_text(seed, repeated=True, healthy=healthy)


@scenario(Symptom.BAD_BATCH, "a picture that was read as text", within=0)
def bytes_as_text(seed: int, *, healthy: bool) -> int:
    """A model of bytes, and a batch in which every byte is as likely as any other."""
    return _train_on_text(seed, repeated=False, healthy=healthy)


@scenario(Symptom.BAD_BATCH, "a batch in other units", within=1)
def unscaled_batch(seed: int, *, healthy: bool) -> int:
    """Features in thousandths: a thousand times as large as all others."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes, norm=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    bad_at = begins(seed, 150, 250)
    for step in range(1, STEPS + 1):
        x, y = points.batch(64)
        if step == bad_at and not healthy:
            x = 1000.0 * x
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return bad_at


def _train_on_text(seed: int, *, repeated: bool, healthy: bool) -> int:
    torch.manual_seed(seed)
    text = Text(seed, batch_size=8, length=32)
    model = GPT(256, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    guard = lossguard.attach(model, optimizer)
    bad_at = begins(seed, 100, 160)
    for step in range(1, 201):
        x, y = text.batch()
        if step == bad_at and not healthy:
            window = torch.randint(256, (8, 33))
            if repeated:
                window = torch.full((8, 33), seed)
            x, y = window[:, :-1], window[:, 1:]
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    guard.close()
    return bad_at


class OnDisk(Dataset[tuple[Tensor, Tensor]]):
    """Points that have to be read one by one."""

    def __init__(self, points: Points, seconds: float) -> None:
        self.x, self.y = points.train
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.seconds)
        return self.x[index], self.y[index]


@scenario(Symptom.DATA_STARVED, "a data set on a slow disk", within=300)
def slow_disk(seed: int, *, healthy: bool) -> int:
    """Two milliseconds a sample, one after the other, where a step takes one."""
    torch.manual_seed(seed)
    data = OnDisk(Points(seed, samples=2048), 1e-6 if healthy else 2e-3)
    loader = DataLoader(data, batch_size=16, shuffle=True)
    model = mlp(data.x.shape[1], 256, 256, 256, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    for _ in range(3):
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    guard.close()
    return 1
