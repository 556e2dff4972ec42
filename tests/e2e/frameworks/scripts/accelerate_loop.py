"""A loop with Accelerate: accumulation, clipping, a schedule."""

from __future__ import annotations

import hashlib
import json

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def points(size: int, seed: int) -> TensorDataset:
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def main() -> None:
    set_seed(7)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, scheduler, train, val = accelerator.prepare(
        model,
        adam,
        torch.optim.lr_scheduler.StepLR(adam, 4),
        DataLoader(points(64, 1), 8, shuffle=True),
        DataLoader(points(32, 2), 8),
    )
    for _ in range(3):
        model.train()
        losses: list[float] = []
        for x, y in train:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                losses.append(loss.item())
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    print(json.dumps({"loss": sum(losses) / 2, "grad_norm": norm.item()}))
                    losses.clear()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            found = [accelerator.gather_for_metrics(F.cross_entropy(model(x), y)) for x, y in val]
        print(json.dumps({"val_loss": torch.stack(found).mean().item()}))
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print(json.dumps({"weights": hashlib.sha256(weights).hexdigest()}))


if __name__ == "__main__":
    main()
