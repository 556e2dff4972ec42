"""A small training as people write them, which knows of nobody that watches: a script to run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Words(nn.Module):
    """Predicts the next of 32 tokens; with ReLU, tanh and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 16))
            for _ in range(2)
        )
        self.gate = nn.Tanh()
        self.head = nn.Linear(16, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to logits (batch, length, 32)."""
        x: Tensor = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(self.gate(x))
        return logits


def main(checkpoint: Path) -> list[float]:
    """Two epochs of 20 steps; the validation loss after each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Words()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    criterion = nn.CrossEntropyLoss()
    data = TensorDataset(torch.cumsum(torch.randint(3, (400, 9)), 1) % 32)
    training = DataLoader(torch.utils.data.Subset(data, range(320)), batch_size=16, shuffle=True)
    validation = DataLoader(torch.utils.data.Subset(data, range(320, 400)), batch_size=40)

    def loss_of(batch: Tensor) -> Tensor:
        logits = model(batch[:, :-1])
        loss: Tensor = criterion(logits.flatten(0, 1), batch[:, 1:].flatten())
        return loss

    found = []
    for _ in range(2):
        model.train()
        for (batch,) in training:
            optimizer.zero_grad()
            scaler.scale(loss_of(batch)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        model.eval()
        with torch.no_grad():
            losses = [float(loss_of(batch)) for (batch,) in validation]
        found.append(sum(losses) / len(losses))
        torch.save(model.state_dict(), checkpoint)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
