"""Ignite's supervised trainer, with accumulation, and its evaluator."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Loss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def points(size: int, seed: int) -> TensorDataset:
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def main() -> None:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(model, optimizer, criterion, gradient_accumulation_steps=2)
    evaluator = create_supervised_evaluator(model, metrics={"loss": Loss(criterion)})
    val = DataLoader(points(32, 2), 8)
    losses: list[float] = []

    @trainer.on(Events.ITERATION_COMPLETED)  # type: ignore[untyped-decorator]
    def say(engine: Any) -> None:
        losses.append(engine.state.output)
        if len(losses) == 2:
            norm = torch.linalg.vector_norm(
                torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            )
            print(json.dumps({"loss": sum(losses) / 2, "grad_norm": norm.item()}))
            losses.clear()

    @trainer.on(Events.EPOCH_COMPLETED)  # type: ignore[untyped-decorator]
    def evaluate(engine: Any) -> None:
        evaluator.run(val)
        print(json.dumps({"val_loss": evaluator.state.metrics["loss"]}))

    trainer.run(DataLoader(points(64, 1), 8, shuffle=True), max_epochs=3)
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print(json.dumps({"weights": hashlib.sha256(weights).hexdigest()}))


if __name__ == "__main__":
    main()
