"""A training on several ranks that dies, and is taken up by others.

python -m tests.e2e.ranks.lives OUT LIFE...    with LIFE as WRAP:RANKS:dies, WRAP:RANKS:whole or
WRAP:RANKS:goes-on. Each life is a job of its own; none of them says goodbye. WRAP:RANK:torn damages
what that rank has left.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lossguard.home import find_home
from lossguard.probes import wire
from lossguard.probes.guard import attach
from tests.e2e.ranks.hearing import lines_said
from tests.e2e.ranks.jobs import fork_ranks

STEPS = 24
PROVEN = 12
"""The agent's word on what has proven good, from this step on."""
WRITTEN = 11
"""So this is what goes to disk."""
DIES = 19


class Lived(msgspec.Struct):
    """What one rank has seen of a life. ``states``: of the whole, after every step from ``WRITTEN``
    on; of a life that dies none, for to put the whole together takes long."""

    begun: int | None
    losses: list[float]
    states: dict[int, str]
    on_disk: list[int]
    log: list[str]


class Network(nn.Module):
    """Shapes that neither two nor four ranks can share evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.drop = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 3)."""
        y: Tensor = self.head(self.norm(self.drop(torch.tanh(self.first(x)))))
        return y


def wrapped(how: str, model: nn.Module) -> nn.Module:
    """As DDP or as FSDP2."""
    if how == "ddp":
        return DistributedDataParallel(model)
    for part in model.children():
        if list(part.parameters()):
            fully_shard(part)
    fully_shard(model)
    return model


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Life:
    """One job, on this rank. The mean of all ranks' losses does not depend on their number, but for
    the dropout of the first steps, which is over when the state is written."""

    def __init__(self, how: str) -> None:
        torch.manual_seed(0)
        self.network = Network()
        self.model = wrapped(how, self.network)
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)
        self.guard = attach(
            self.model, self.optimizer, policy="guard", name=f"lives-{how}", agent="existing",
            scheduler=self.schedule, extra={"ema": self.average},
        )  # fmt: skip
        loop: Any = self.guard._loop
        loop._acting._ring._overhead = 1e9  # every five steps, however long they take
        self.loop = loop

    def step(self, number: int) -> float:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name].lerp_(parameter, 0.1)
        self.network.drop.p = 0.1 if number < WRITTEN else 0.0
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(number))
        x = x[dist.get_rank() :: dist.get_world_size()]
        self.optimizer.zero_grad()
        loss = (self.model(x) - x[:, :3].sin()).square().mean()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        return float(mean) / dist.get_world_size()

    def state(self) -> str:
        """Weights, moments, averages, rate: of the whole, to the last bit."""
        with torch.no_grad():
            tensors = [*self.model.parameters(), *self.average.values()]
            for parameter in self.model.parameters():
                tensors += self.optimizer.state.get(parameter, {}).values()
            parts = [whole(t).detach().numpy().tobytes() for t in tensors]
        rate = self.optimizer.param_groups[0]["lr"].hex()
        return hashlib.sha256(b"".join([*parts, rate.encode()])).hexdigest()[:16]

    def told(self, number: int) -> None:
        """The agent's limits."""
        if number >= PROVEN:
            limits = wire.Limits(run=self.loop.run, version=1, proven_step=PROVEN)
            self.loop._link.limits = limits
            self.loop._link._heard_s = float("inf")

    def live(self, fate: str) -> Lived:
        begun = self.guard.resume() if fate == "goes-on" else None
        lived = Lived(begun, [], {} if begun is None else {begun: self.state()}, [], [])
        last = DIES if fate == "dies" else STEPS
        for number in range(begun or 0, last):
            lived.losses.append(self.step(number))
            if fate == "dies":
                self.told(number + 1)
            elif number + 1 >= WRITTEN:
                lived.states[number + 1] = self.state()
        tier = self.loop._acting._tier
        tier.settle()
        lived.on_disk = tier.steps
        return lived


def live_on_rank(out: Path, life: str, rank: int) -> None:
    """To the bitter end."""
    how, _, fate = life.split(":")
    os.environ["LOSSGUARD_RUN"] = life.replace(":", "-")
    lines = lines_said()
    lived = Life(how).live(fate)
    lived.log = list(lines)
    (out / f"{life}.{rank}").write_bytes(msgspec.msgpack.encode(lived))
    dist.barrier()
    os._exit(9)


def tear(life: str) -> None:
    """One bit of what a rank has left is another."""
    how, rank, _ = life.split(":")
    for blobs in (find_home().state / "snapshots").glob(f"{how}-*.rank{rank}/step-*/blobs"):
        content = bytearray(blobs.read_bytes())
        content[len(content) // 2] ^= 1
        blobs.write_bytes(content)


def main(out: Path, lives: list[str]) -> None:
    """One after the other, on ranks that share what was imported."""
    for life in lives:
        if life.endswith(":torn"):
            tear(life)
            continue
        fork_ranks(int(life.split(":")[1]), partial(live_on_rank, out, life), 60)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
