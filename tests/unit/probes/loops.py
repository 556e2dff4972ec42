"""Small training loops to watch, and what tests look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lossguard.probes import wire
from lossguard.probes.guard import Guard
from lossguard.probes.link import Link
from lossguard.probes.loop import Loop
from lossguard.probes.outbox import Measured


class Tiny(nn.Module):
    """An embedding, blocks, a head: what a watch looks for, in 3,000 parameters."""

    def __init__(self, depth: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(dropout))
            for _ in range(depth)
        )
        self.head = nn.Linear(16, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to logits (batch, length, 11)."""
        x: Tensor = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x)
        return logits


def tokens(seed: int) -> Tensor:
    """A batch (4, 6) that depends on ``seed`` alone."""
    return torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, seed: int) -> Tensor:
    """The loss of the batch ``seed``."""
    batch = tokens(seed)
    return nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten())


def weights_of(model: nn.Module) -> list[Tensor]:
    """Copies of parameters and buffers."""
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of nested tensors; a NaN equals itself."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def loop_of(guard: Guard) -> Loop:
    """What the guard hides."""
    loop = guard._loop
    assert loop is not None
    return loop


Watch = Callable[..., Guard]


class Records:
    """Takes the place of a loop's outbox: what it would send, by name."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.steps: list[dict[str, float]] = []
        self.missing: list[set[str]] = []
        loop_of(guard)._outbox.put = self._put  # type: ignore[method-assign]

    def _put(self, item: Any) -> None:
        if not isinstance(item, Measured):
            return
        values, _ = item.read()
        bits = values.view("uint32")
        names = item.layout.names
        absent = {n for n, b in zip(names, bits, strict=True) if b == 0x7FC0A11E}
        self.missing.append(absent)
        self.steps.append(
            {n: float(v) for n, v in zip(names, values, strict=True) if n not in absent}
        )

    def of(self, name: str) -> list[float | None]:
        """The values of one metric, step by step; None where it was not measured."""
        return [step.get(name) for step in self.steps]


class NoLink(Link):
    """A link without a thread and without a socket."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.step = 0
        self.limits: wire.Limits | None = None
        self.orders: deque[wire.Command] = deque()

    def close(self, timeout_s: float = 1.8) -> bool:
        """Nothing to end."""
        return True

    def abandon(self) -> None:
        """Nothing to end."""
