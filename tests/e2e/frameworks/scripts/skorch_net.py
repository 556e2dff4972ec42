"""skorch: a torch module behind scikit-learn's interface."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, GradientNormClipping
from torch import Tensor, nn


class Net(nn.Module):
    """Which of three numbers is the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class Norms(Callback):  # type: ignore[misc]
    """Keeps the gradient norm of each batch."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        flat = torch.cat([p.grad.flatten() for _, p in named_parameters])
        self.norms.append(torch.linalg.vector_norm(flat).item())


def main() -> None:
    torch.manual_seed(7)
    x = np.random.default_rng(1).standard_normal((80, 8)).astype(np.float32)
    norms = Norms()
    net = NeuralNetClassifier(
        Net,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-2,
        max_epochs=3,
        batch_size=16,
        iterator_train__shuffle=True,
        callbacks=[("norms", norms), ("clip", GradientNormClipping(0.5))],
        verbose=0,
    )
    net.fit(x, x[:, :3].argmax(1))
    measured = iter(norms.norms)
    for epoch in net.history:
        for batch in epoch["batches"]:
            if "train_loss" in batch:
                print(json.dumps({"loss": batch["train_loss"], "grad_norm": next(measured)}))
        print(json.dumps({"val_loss": epoch["valid_loss"]}))
    weights = b"".join(p.detach().numpy().tobytes() for p in net.module_.parameters())
    print(json.dumps({"weights": hashlib.sha256(weights).hexdigest()}))


if __name__ == "__main__":
    main()
