"""A loop with Accelerate, and one line of Lossguard: which of three numbers is the largest?

    pip install accelerate
    python accelerate_loop.py
    python accelerate_loop.py --policy guard

Takes a few seconds. The same script without that line can be watched with `lossguard run`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lossguard.integrations.accelerate import watch


def points(size: int, seed: int) -> TensorDataset:
    """Eight numbers each, and which of the first three is the largest."""
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def train(net: nn.Module, begin: Callable[[Accelerator], Any], epochs: int = 5) -> None:
    """An effective batch of 16, in two halves, clipped. ``begin`` is called with all prepared."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    adam = torch.optim.AdamW(net.parameters(), lr=1e-2)
    model, optimizer, scheduler, loader, validation = accelerator.prepare(
        net,
        adam,
        torch.optim.lr_scheduler.CosineAnnealingLR(adam, 200),
        DataLoader(points(256, 1), 8, shuffle=True),
        DataLoader(points(64, 2), 32),
    )
    begin(accelerator)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            losses = [F.cross_entropy(model(x), y) for x, y in validation]
        val_loss = accelerator.gather_for_metrics(torch.stack(losses)).mean().item()
        accelerator.log({"val_loss": val_loss})
        accelerator.print(f"val_loss {val_loss:.4f}")
    accelerator.end_training()


def small_net() -> nn.Module:
    """A small network with dropout."""
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="observe", help="observe, guard, or a TOML file")
    policy = parser.parse_args().policy
    set_seed(7)
    train(small_net(), lambda accelerator: watch(accelerator, policy))


if __name__ == "__main__":
    main()
