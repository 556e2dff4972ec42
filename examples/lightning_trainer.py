"""Lightning's Trainer with Lossguard's callback: which of three numbers is the largest?

    pip install lightning
    python lightning_trainer.py
    python lightning_trainer.py --policy guard

Takes a few seconds. The same script without the callback can be watched with `lossguard run`.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lossguard.integrations.lightning import LossguardCallback


class Classifier(L.LightningModule):  # type: ignore[misc]
    """A small network with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            print(f"val_loss {self.trainer.callback_metrics['val_loss']:.4f}")

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
        schedule = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def points(size: int, seed: int) -> TensorDataset:
    """Eight numbers each, and which of the first three is the largest."""
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def train(model: Classifier, callbacks: list[Any], epochs: int = 5) -> None:
    """An effective batch of 16, in two halves, clipped."""
    trainer = L.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(points(256, 1), 8, shuffle=True)
    trainer.fit(model, loader, DataLoader(points(64, 2), 32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="observe", help="observe, guard, or a TOML file")
    policy = parser.parse_args().policy
    L.seed_everything(7)
    train(Classifier(), [LossguardCallback(policy)])


if __name__ == "__main__":
    main()
