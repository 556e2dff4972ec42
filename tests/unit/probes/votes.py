"""Ranks that vote without processes: groups that answer as told, over a store in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed
from torch.distributed import distributed_c10d

from lossguard.probes import wire
from lossguard.probes.arbiter import Arbiter
from lossguard.probes.ballot import Ballot
from lossguard.probes.together import Together

CPU = torch.device("cpu")


class Answering:
    """A group whose other rank gives what it is told to: by default the same as this one."""

    def __init__(
        self, others: Callable[[Tensor], Tensor] = lambda votes: votes.clone(), lag: int = 0
    ) -> None:
        self.lag = lag
        self.why_over = ""
        self.others = others
        self.closed = False
        self.times = 0

    def add_up(self, votes: Tensor) -> None:
        """As gloo does."""
        self.times += 1
        votes += self.others(votes)

    def close(self) -> None:
        """Noted."""
        self.closed = True


class Dead(Answering):
    """A group that has lost a rank."""

    def add_up(self, votes: Tensor) -> None:
        """As gloo says it."""
        raise RuntimeError("Connection closed by peer")


def in_memory() -> distributed_c10d.Store:
    """What all ranks share."""
    return distributed.HashStore()  # type: ignore[attr-defined]


def hello(rank: int = 0) -> wire.Hello:
    """Of one of two ranks."""
    return wire.Hello(
        run="r", protocol=1, name="r", rank=rank, world_size=2, pid=1, host="h", started_s=0.0,
        policy="guard", script=[], versions={},
    )  # fmt: skip


def open_on(
    together: Together, group: Answering, store: distributed_c10d.Store, device: torch.device = CPU
) -> None:
    """As if the group had been formed."""
    together._group = group
    together._arbiter = Arbiter(store, "key")
    together._ballot = Ballot(2, device)


def rank_of_two(
    group: Answering, store: distributed_c10d.Store | None = None, rank: int = 0
) -> tuple[Together, list[str]]:
    """A rank that votes, and what it says when the vote is lost."""
    said: list[str] = []
    together = Together(hello(rank), CPU, said.append, "")
    open_on(together, group, in_memory() if store is None else store)
    return together, said


def order(name: str = "c", number: int = 1) -> wire.Command:
    """A command that needs no arguments."""
    return wire.Command(run="r", command=name, action="skip", expires_step=99, number=number)


def code(value: float) -> Tensor:
    """A verdict."""
    return torch.tensor(value, dtype=torch.float32)
