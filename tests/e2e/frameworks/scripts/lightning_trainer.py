"""Lightning's Trainer and a small classifier, with accumulation and clipping."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Classifier(L.LightningModule):  # type: ignore[misc]
    """Which of three numbers is the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.layers(x), y)
        self.losses.append(loss.item())
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        norm = grad_norm(self, 2)["grad_2.0_norm_total"].item()
        print(json.dumps({"loss": sum(self.losses) / len(self.losses), "grad_norm": norm}))
        self.losses.clear()

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.layers(x), y))

    def on_train_epoch_end(self) -> None:
        print(json.dumps({"val_loss": self.trainer.callback_metrics["val_loss"].item()}))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4)
        schedule = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def points(size: int, seed: int) -> TensorDataset:
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def main() -> None:
    L.seed_everything(7)
    model = Classifier()
    trainer = L.Trainer(
        max_epochs=3,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        accelerator="cpu",
        default_root_dir=sys.argv[1],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = DataLoader(points(64, 1), 8, shuffle=True)
    trainer.fit(model, train, DataLoader(points(32, 2), 8))
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print(json.dumps({"weights": hashlib.sha256(weights).hexdigest()}))


if __name__ == "__main__":
    main()
