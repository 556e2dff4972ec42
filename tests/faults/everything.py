"""A training that makes use of all that the probe listens to: a script too, for real processes."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

STEPS = 24


class Words(nn.Module):
    """Predicts the next of 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1)) for _ in range(2)
        )
        self.head = nn.Linear(8, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to logits (batch, length, 16)."""
        x: Tensor = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x)
        return logits


class Training:
    """``STEPS`` steps; ``end`` is all that they leave behind."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.folder = folder
        self.model = Words()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 10, 0.5)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        data = TensorDataset(torch.cumsum(torch.randint(3, (STEPS * 4, 7)), 1) % 16)
        self.batches = DataLoader(data, batch_size=4)
        self.losses: list[Tensor] = []

    def loss_of(self, batch: Tensor) -> Tensor:
        """Of one batch."""
        logits = self.model(batch[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def run(self, guard: Any = None) -> None:
        """To the end; with a guard, its metrics are logged as a script would."""
        for number, (batch,) in enumerate(self.batches, start=1):
            self.optimizer.zero_grad()
            loss = self.loss_of(batch)
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            self.average.update_parameters(self.model)
            self.losses.append(loss.detach())
            if number == 5 and (seconds := os.environ.get("HOLD_GIL_S")):
                while guard is not None and not guard._loop._link._connected:
                    time.sleep(0.01)
                ctypes.PyDLL(None).sleep(int(seconds))  # nothing else of this process runs
            if number % 8 == 0:
                self._evaluate(batch, guard)

    def _evaluate(self, batch: Tensor, guard: Any) -> None:
        self.model.eval()
        with torch.no_grad():
            loss = self.loss_of(batch)
        self.model.train()
        self.losses.append(loss)
        torch.save(self.model.state_dict(), self.folder / "checkpoint.pt")
        if guard is not None:
            guard.log(val_loss=float(loss))

    def end(self) -> list[Tensor]:
        """Losses, weights, moments, averages, the random generator."""
        moments = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        rate = torch.tensor([group["lr"] for group in self.optimizer.param_groups])
        generator = torch.get_rng_state()
        found = [*self.losses, *self.model.state_dict().values(), *moments, rate, generator]
        return [t.detach().clone() for t in (*found, *self.average.state_dict().values())]


def digest(tensors: list[Tensor]) -> str:
    """Equal exactly where all bits are."""
    whole = sha256()
    for tensor in tensors:
        whole.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def main() -> None:
    logging.basicConfig()
    training = Training(Path(sys.argv[1]))
    if os.environ.get("WATCHED"):
        import lossguard

        guard = lossguard.attach(
            training.model, training.optimizer, scheduler=training.scheduler,
            scaler=training.scaler, policy="guard", agent="existing",
        )  # fmt: skip
        training.run(guard)
    else:
        training.run()
    sys.stdout.write(json.dumps({"digest": digest(training.end())}))
    sys.exit(7)


if __name__ == "__main__":
    main()
