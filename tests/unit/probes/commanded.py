"""A guarded loop that takes orders, and the orders."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import lr_scheduler

from lossguard.probes import wire
from lossguard.probes.guard import Guard
from tests.unit.probes.loops import Records, Tiny, Watch, loop_of, loss_of, weights_of


def command(
    name: str, action: Any, step: int = 0, expires: int = 1000, **args: Any
) -> wire.Command:
    """An order to this run."""
    return wire.Command(
        run="run", command=name, action=action, step=step, expires_step=expires, args=args
    )


class Commanded:
    """A guarded loop that takes orders."""

    def __init__(self, watch: Watch, policy: str = "guard", fused: bool = True) -> None:
        torch.manual_seed(0)
        self.model = Tiny()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=fused)
        self.schedule = lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.9**step)
        self.guard: Guard = watch(
            self.model, self.optimizer, policy=policy, scheduler=self.schedule
        )
        self.records = Records(self.guard)
        self.seed = 0

    def order(self, *commands: wire.Command) -> None:
        """As the link hands them over."""
        loop_of(self.guard)._link.orders.extend(commands)

    def run(self, steps: int = 1) -> None:
        """Train on the next batches."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss_of(self.model, self.seed).backward()
            self.optimizer.step()
            self.schedule.step()
            self.seed += 1

    @property
    def answers(self) -> list[wire.Ack]:
        """What was answered so far."""
        return [w for w in loop_of(self.guard)._outbox.words if isinstance(w, wire.Ack)]

    def everything(self) -> Any:
        """Weights, moments, schedule."""
        return (
            weights_of(self.model),
            [t.clone() for s in self.optimizer.state.values() for t in s.values()],
            self.schedule.state_dict()["last_epoch"],
            [g["lr"] for g in self.optimizer.param_groups],
        )
