"""A small training that lies on a GPU, batches included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lossguard.probes import wire
from lossguard.probes.guard import Guard
from tests.unit.probes.loops import Tiny, loop_of

DEVICE = "cuda"
Optimize = Callable[..., torch.optim.Optimizer]


def fused(parameters: Any) -> torch.optim.Optimizer:
    """The verdict stays on the device."""
    return torch.optim.AdamW(parameters, lr=1e-2, fused=True)


def plain(parameters: Any) -> torch.optim.Optimizer:
    """The verdict is read, one scalar a step."""
    return torch.optim.AdamW(parameters, lr=1e-2, foreach=True)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    """Fused, and with one buffer a parameter."""
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, fused=True)


class Training:
    """``Tiny`` with dropout on tokens that are drawn by the step's number.

    ``spoils`` are steps [from 1 on] whose loss is not finite, ``leaves_out`` steps that are not
    trained on at all.
    """

    def __init__(
        self,
        optimize: Optimize = fused,
        *,
        dropout: float = 0.1,
        spoils: tuple[int, ...] = (),
        leaves_out: tuple[int, ...] = (),
        scales: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = Tiny(depth=3, dropout=dropout).to(DEVICE)
        self.optimizer = optimize(self.model.parameters())
        self.scaler = torch.amp.GradScaler(DEVICE, init_scale=256.0) if scales else None
        self._batches = [
            torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(i)).to(DEVICE)
            for i in range(120)
        ]
        self._factors = torch.ones(120, device=DEVICE)
        for step in spoils:
            self._factors[step] = float("nan")
        self._leaves_out = leaves_out
        self.losses: list[Tensor] = []
        self.number = 0
        self._num_orders = 0
        self.guard: Guard | None = None

    def steps(self, number: int) -> None:
        """So many more."""
        for _ in range(number):
            self.number += 1
            if self.number not in self._leaves_out:
                self.step(self.number)

    def step(self, number: int) -> None:
        """On the batch of this number. Nothing in it waits for the device."""
        self.optimizer.zero_grad()
        batch = self._batches[number]
        logits = self.model(batch).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, batch.flatten()) * self._factors[number]
        self.losses.append(loss.detach())
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
            return
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self) -> list[Tensor]:
        """Copies of weights and of all that the optimizer keeps."""
        kept: list[Tensor] = [*self.model.parameters()]
        for state in self.optimizer.state.values():
            kept += [value for value in state.values() if isinstance(value, Tensor)]
        return [tensor.detach().clone() for tensor in kept]

    def obey(self, action: Any, **args: Any) -> wire.Ack:
        """Train a step at the end of which this order is carried out; its answer."""
        assert self.guard is not None
        loop = loop_of(self.guard)
        orders = loop._acting._orders
        answers: list[wire.Ack] = []
        say, orders._say = orders._say, answers.append  # type: ignore[assignment]
        self._num_orders += 1
        loop._link.orders.append(
            wire.Command(
                run=loop.run, command=f"order-{self._num_orders}", action=action,
                expires_step=1000, args=args, number=self._num_orders,
            )
        )  # fmt: skip
        self.steps(1)
        orders._say = say
        (answer,) = answers
        return answer


@contextmanager
def no_wait() -> Iterator[None]:
    """Whatever makes the host wait for the device raises in here."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
