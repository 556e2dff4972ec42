"""A loop of one's own, with backward, accumulation and clipping by Lightning Fabric."""

from __future__ import annotations

import hashlib
import json

import torch
from lightning.fabric import Fabric, seed_everything
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def points(size: int, seed: int) -> TensorDataset:
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def main() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    seed_everything(7)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
    model, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=1e-2))
    train, val = fabric.setup_dataloaders(
        DataLoader(points(64, 1), 8, shuffle=True), DataLoader(points(32, 2), 8)
    )
    for _ in range(3):
        model.train()
        losses: list[float] = []
        for x, y in train:
            accumulating = len(losses) == 0
            with fabric.no_backward_sync(model, enabled=accumulating):
                loss = F.cross_entropy(model(x), y)
                fabric.backward(loss / 2)
            losses.append(loss.item())
            if not accumulating:
                norm = fabric.clip_gradients(model, optimizer, max_norm=0.5)
                print(json.dumps({"loss": sum(losses) / 2, "grad_norm": norm.item()}))
                losses.clear()
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            mean = torch.stack([F.cross_entropy(model(x), y) for x, y in val]).mean().item()
        print(json.dumps({"val_loss": mean}))
    weights = b"".join(p.detach().numpy().tobytes() for p in net.parameters())
    print(json.dumps({"weights": hashlib.sha256(weights).hexdigest()}))


if __name__ == "__main__":
    main()
