"""Ranks that tell each other something before a run begins, over the store they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from lossguard.errors import LossguardError
from lossguard.probes import wire

PATIENCE_S = 600.0
"""How long a rank waits for another: it may have gigabytes to read [s]."""

_met: Counter[str] = Counter()
"""How often this process has met its peers, by name of the run: a script may train twice."""


class Peers(Protocol):
    """All ranks of a run, this one among them."""

    rank: int
    size: int

    def exchange(self, words: str) -> Sequence[str]:
        """What each has said, in their order; every rank has to say something. Waits for all.

        Raises LossguardError for one that did not come.
        """


class Alone:
    """The one rank of a run."""

    rank = 0
    size = 1

    def exchange(self, words: str) -> Sequence[str]:
        """What was said."""
        return [words]


class ByStore:
    """The ranks of a ``torch.distributed`` job. A round trip or two each time."""

    def __init__(self, store: Any, key: str, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._key = key
        self._round = 0

    def exchange(self, words: str) -> Sequence[str]:
        """What each has said, in their order."""
        self._round += 1
        keys = [f"{self._key}/{self._round}/{rank}" for rank in range(self.size)]
        try:
            self._store.set(keys[self.rank], words)
            self._store.wait(keys, timedelta(seconds=PATIENCE_S))
            return [self._store.get(key).decode() for key in keys]
        except RuntimeError as error:  # DistStoreError is one
            raise LossguardError(
                f"rank {self.rank} waited {PATIENCE_S:g} s for the others: every rank has to "
                f"call guard.resume(), or none ({' '.join(str(error).split())[:120]})"
            ) from error


def peers_of(hello: wire.Hello) -> Peers | None:
    """The ranks of this run; None where they have no way to speak to each other yet."""
    if hello.world_size == 1:
        return Alone()
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    if (dist.get_world_size(), dist.get_rank()) != (hello.world_size, hello.rank):
        return None
    _met[hello.name] += 1
    store: Any = dist.distributed_c10d._get_default_store()
    key = f"lossguard/resume/{hello.name}/{_met[hello.name]}"
    return ByStore(store, key, hello.rank, hello.world_size)
