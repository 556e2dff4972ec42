"""A training process that is watched for long stays as large as it was.

    python -m benchmarks.probe_soak                    # 100,000 guarded steps, in a few minutes
    python -m benchmarks.probe_soak --steps 20000

Tiny steps of a model with tokens of many lengths, an evaluation every 100 steps and a loss that is
not finite every 1,000 (which is vetoed, and looked at more closely). Prints the resident size at
every tenth, and ends with 1 where it has grown by more than 8 MiB from the second tenth on.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import psutil
import torch
from torch import Tensor, nn

import lossguard
from benchmarks.spine import own_home
from lossguard.agent.launching import ensure_agent

_MOST_MIB = 8.0


class Tiny(nn.Module):
    """A bag of tokens; an infinite scale makes the loss infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 8)
        self.blocks = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(8, 32)

    def forward(self, tokens: Tensor, scale: float = 1.0) -> Tensor:
        """Tokens (batch, length) to logits (batch, 32)."""
        logits: Tensor = self.head(self.blocks(self.embedding(tokens).mean(1)) * scale)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description="Does a watched process grow?")
    parser.add_argument("--steps", type=int, default=100_000)
    steps: int = parser.parse_args().steps
    torch.set_num_threads(1)
    with own_home() as home:
        ensure_agent(home)
        sizes = resident_sizes(steps)
    growth = max(sizes[1:]) - sizes[1]
    print(f"growth from the second tenth of {steps:,} steps on: {growth:.1f} MiB")
    sys.exit(growth > _MOST_MIB)


def resident_sizes(steps: int) -> list[float]:
    """After every tenth of the steps [MiB]."""
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer, policy="guard", name="soak")
    process = psutil.Process()
    lengths = itertools.cycle(range(1, 60))
    sizes: list[float] = []
    for step in range(1, steps + 1):
        tokens = torch.randint(32, (4, next(lengths)))
        scale = float("inf") if step % 1000 == 0 else 1.0
        loss = nn.functional.cross_entropy(model(tokens, scale), tokens[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            model.eval()
            with torch.no_grad():
                nn.functional.cross_entropy(model(tokens), tokens[:, 0])
            model.train()
        if step % (steps // 10) == 0:
            sizes.append(process.memory_info().rss / 2**20)
            print(f"step {step:>9,}: {sizes[-1]:7.1f} MiB", flush=True)
    guard.close()
    return sizes


if __name__ == "__main__":
    main()
