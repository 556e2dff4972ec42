"""A small training that goes on until somebody stops it, and does what it is told meanwhile.

It sleeps for most of each step, so that waiting for it costs little. Files in the working folder
tell it: ``nan`` spoils one batch, ``rate`` raises the learning rate 100 times for 12 steps (both
are taken away when they have been seen), and ``end`` ends it. Every step prints a line.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn

STEP_S = 0.008


def told(name: str) -> bool:
    """Once for each time that the file is made."""
    file = Path(name)
    found = file.exists()
    file.unlink(missing_ok=True)
    return found


def main(learning_rate: float) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    raised_until = 0
    for step in itertools.count():
        x = torch.randn(32, 8)
        if told("nan"):
            x[0, 0] = math.nan
        if told("rate"):
            raised_until = step + 12
        optimizer.param_groups[0]["lr"] = learning_rate * (100 if step < raised_until else 1)
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        sys.stdout.write(f"step {step + 1}  loss {loss.item():.4f}\n")
        sys.stdout.flush()
        if told("end"):
            break
        time.sleep(STEP_S)


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 0.01)
