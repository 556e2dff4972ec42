"""Small trainings on several ranks: one of them slow, asleep, or with a flipped bit; and all alike.

python -m tests.e2e.hangs.ranks_apart RANKS CASE...
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from lossguard.probes.guard import attach
from tests.e2e.ranks.jobs import fork_ranks

STEPS = 112
FLIPPED_AT = 40
ASLEEP_AT = 40
ODD = 1
"""The rank that is not like the others."""
BEAT_S = 0.012


class Rows(Dataset[torch.Tensor]):
    """Numbers that take ``wait_s`` to read; or one of them for ever."""

    def __init__(self, wait_s: float, asleep_at: int = 0) -> None:
        self._wait_s = wait_s
        self._asleep_at = asleep_at

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self._wait_s if index + 1 != self._asleep_at else 1000.0)
        return torch.randn(8)


class Busy(nn.Module):
    """A model whose forward takes ``busy_s``."""

    def __init__(self, busy_s: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        self._busy_s = busy_s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (batch, 8) to (batch, 4)."""
        time.sleep(self._busy_s)
        out: torch.Tensor = self.layers(x)
        return out


def flip_a_bit(model: nn.Module) -> None:
    """The lowest of one weight."""
    weight = next(model.parameters()).detach().view(-1).view(torch.int32)
    weight[5] ^= 1


def train(case: str, rank: int) -> None:
    """One run, watched."""
    os.environ["LOSSGUARD_RUN"] = case
    is_odd = rank == ODD
    torch.manual_seed(0)
    model = DistributedDataParallel(Busy(BEAT_S * (1 + (is_odd and case == "slow"))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = Rows(BEAT_S if is_odd and case == "starved" else 0.0)
    if case == "asleep":
        rows = Rows(0.0, ASLEEP_AT if is_odd else 0)
    policy = os.environ.get("LOSSGUARD_POLICY", "observe")
    guard = attach(model, optimizer, policy=policy, name=case, agent="existing")
    for step, x in enumerate(DataLoader(rows, batch_size=1), start=1):
        if case == "asleep":
            dist.all_reduce(torch.ones(()))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if is_odd and case == "flipped" and step == FLIPPED_AT:
            flip_a_bit(model)
    guard.close()


def train_all(cases: list[str], rank: int) -> None:
    """All cases, one after the other, in a process of its own."""
    for case in cases:
        train(case, rank)
    dist.destroy_process_group()


def main(world: int, cases: list[str]) -> None:
    """On so many ranks, which share what was imported."""
    sys.exit(max(code or 0 for code in fork_ranks(world, partial(train_all, cases))))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
