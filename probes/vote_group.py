"""The way votes travel: a process group of our own, beside those of the script and torch's books.

It is made directly, not by ``new_group``: that would count in every rank's list of groups, and a
rank that makes one more than its peers hangs in the next that the script makes.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor

from lossguard.probes.vote_on_cuda import on_cuda

PATIENCE_S = 30.0
"""A peer that has not come to the vote by then is missing, for good [s]."""

ON_CUDA = "LOSSGUARD_VOTE_ON_CUDA"
"""Set to 1, ranks that train on GPUs vote too. That has been seen with several ranks on one GPU,
and not on several GPUs."""


class Unfit(Exception):
    """These ranks cannot vote; says why."""


class Group(Protocol):
    """Adds up what every rank gives. ``lag`` is how many steps later the host may look at it."""

    lag: int
    why_over: str
    """Why the sums of the last votes are none; empty where they are."""

    def add_up(self, votes: Tensor) -> None:
        """In place, to the same bits on every rank. Raises where a peer is missing."""

    def close(self) -> None:
        """For good; peers that still wait for us are told so at once. Idempotent."""


def form(store: Any, key: str, rank: int, size: int, device: torch.device) -> Group:
    """A group of all ranks: each has to call this, within ``PATIENCE_S`` of the others.

    Raises Unfit, or whatever goes wrong on the way; a rank that does not come, too.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    mine = PrefixStore(key, store)
    if device.type == "cpu":
        return OnHost(mine, rank, size)
    if device.type != "cuda" or torch.version.hip:
        raise Unfit(f"ranks that train on {device.type} do not vote")
    if os.environ.get(ON_CUDA) != "1":
        raise Unfit(f"ranks that train on cuda do not vote unless {ON_CUDA}=1 is set")
    try:
        return on_cuda(mine, rank, size, device, PATIENCE_S)
    except (OSError, AttributeError) as error:
        raise Unfit(f"there is no NCCL that could be shared with torch: {error}") from error


class OnHost:
    """gloo: waited for, under a millisecond among the ranks of one machine."""

    lag = 0
    why_over = ""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        import torch.distributed as dist

        self._patience = timedelta(seconds=PATIENCE_S)
        self._group: Any = dist.ProcessGroupGloo(store, rank, size, self._patience)
        options: Any = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.SUM
        self._options = options

    def add_up(self, votes: Tensor) -> None:
        """Waits for all ranks, ``PATIENCE_S`` at most; RuntimeError after that."""
        self._group.allreduce([votes], self._options).wait(self._patience)

    def close(self) -> None:
        """Closes the connections, by which the others know."""
        self._group = None
