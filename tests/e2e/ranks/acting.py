"""The same training on several ranks: bare, guarded, and with something going wrong.

RANK=... WORLD_SIZE=... python -m tests.e2e.ranks.acting OUT CASE...
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lossguard.agent import feed
from lossguard.agent.client import Client
from lossguard.home import find_home
from lossguard.probes import vote_group, wire
from lossguard.probes.guard import Guard, attach
from tests.e2e.ranks.hearing import lines_said
from tests.e2e.ranks.jobs import DEVICE, fork_ranks
from tests.support.waiting import eventually

STEPS = 24
BAD = 17
"""The step [from 1 on] at which something happens."""
BOUND = 0.1
ONSET = 14
LAG = int(DEVICE.type == "cuda")
"""Steps by which the outcome of a vote is known later."""
OBEYED = BAD + 1 + LAG
RESTORED, DEEPER = (8, 2) if LAG else (11, 6)
"""The newest snapshots that are old enough for ``ONSET``."""


class Ended(msgspec.Struct):
    """How a training ended on one rank."""

    losses: list[float]
    weights: list[str]
    """Of the bits of this rank's weights and moments, after every step."""
    skipped: int
    answers: list[dict[str, Any]]
    snapshots: list[int]
    log: list[str]
    votes: int
    error: str = ""
    raised_in: list[str] = []
    """The files that the error came through."""


class Case(NamedTuple):
    """``goes_wrong(run, step)`` is called just before the step of that number."""

    wrap: Callable[[nn.Module], nn.Module]
    goes_wrong: Callable[[Run, int], None] = lambda run, step: None
    policy: str = "guard"
    fused: bool = True
    leaves_out: tuple[int, ...] = ()
    """Batches that are not trained on: the reference for a skipped update."""
    stops: int = STEPS + 1
    """The step that rank 1 does not begin; it lives on."""
    goes_back: tuple[int, int] | None = None
    """After which step, and to which: the reference for a rollback."""


def _ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def _sharded(model: nn.Module) -> nn.Module:
    for part in model.children():
        if isinstance(part, nn.Linear):
            fully_shard(part)
    fully_shard(model)
    return model


class Run:
    """One training on this rank."""

    def __init__(self, case: Case, name: str) -> None:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
        self.model = case.wrap(layers.to(DEVICE))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, fused=case.fused)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.factor, self.weight = 1.0, 1.0
        self.case = case
        self.ended = Ended([], [], 0, [], [], [], 0)
        self.guard: Guard | None = None
        if case.policy != "bare":
            self.guard = attach(
                self.model, self.optimizer, policy=case.policy, name=name, agent="existing"
            )
            self.loop._acting._ring._overhead = 1e9  # every five steps, however long they take
            self.listen(self.loop._acting._orders)

    def listen(self, orders: Any) -> None:
        """To its answers."""
        say = orders._say

        def listening(ack: wire.Ack) -> None:
            self.ended.answers.append({"status": ack.status, "step": ack.step, **ack.result})
            say(ack)

        orders._say = listening

    @property
    def loop(self) -> Any:
        assert self.guard is not None
        return self.guard._loop

    def give(self, action: Any, number: int = 1, **args: Any) -> None:
        """An order, as the link hands it over."""
        self.loop._link.orders.append(
            wire.Command(
                run=self.loop.run,
                command=f"order-{number}",
                action=action,
                expires_step=1000,
                args=args,
                number=number,
            )
        )

    def batch(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 6, generator=generator)
        return x[self.rank :: self.world].to(DEVICE) * self.factor

    def forward_and_backward(self, step: int) -> float:
        self.optimizer.zero_grad()
        x = self.batch(step)
        loss = self.weight * (self.model(x) - x[:, :4].sin()).square().mean()
        loss.backward()
        return float(loss.detach())

    def digest(self) -> str:
        """Weights and moments that lie here."""
        tensors: list[Tensor] = [*self.model.parameters()]
        for state in self.optimizer.state.values():
            tensors += [v for v in state.values() if isinstance(v, Tensor)]
        with torch.no_grad():
            local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
            return hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in local)).hexdigest()[
                :16
            ]

    def train(self) -> Ended:
        kept: dict[str, Any] = {}
        for step in range(1, STEPS + 1):
            if step >= self.case.stops and self.rank == 1:
                break
            self.factor, self.weight = 1.0, 1.0
            self.case.goes_wrong(self, step)
            if step in self.case.leaves_out:
                continue
            self.ended.losses.append(self.forward_and_backward(step))
            self.optimizer.step()
            self.ended.weights.append(self.digest())
            if self.guard is None and self.case.goes_back is not None:
                self.go_back(step, *self.case.goes_back, kept)
        if self.case.stops <= STEPS:
            dist.barrier()
        return self.finish()

    def go_back(self, step: int, after: int, to: int, kept: dict[str, Any]) -> None:
        """By hand, without any of our code."""
        state = self.optimizer.state
        live = [*self.model.parameters()]
        live += [v for p in self.model.parameters() for v in state[p].values()]
        local = [(t.to_local() if isinstance(t, DTensor) else t).detach() for t in live]
        if step == to:
            kept["tensors"] = [t.clone() for t in local]
        if step == after:
            for tensor, before in zip(local, kept["tensors"], strict=True):
                tensor.copy_(before)

    def finish(self) -> Ended:
        if self.guard is not None:
            loop = self.loop
            self.ended.votes = loop._acting._together._number
            self.ended.snapshots = loop._acting._ring.steps
            self.guard.close()
            self.ended.skipped = loop._outbox.num_vetoed
        return self.ended


# --- what goes wrong ------------------------------------------------------------------------


def nan_on_one(run: Run, step: int) -> None:
    if step == BAD and run.rank == run.world - 1:
        run.factor = float("nan")


def spike_on_one(run: Run, step: int) -> None:
    """Only this rank's loss is over the bound; none is put on the norm of the gradient."""
    if run.guard is not None:
        run.loop._link.limits = wire.Limits(run=run.loop.run, version=1, loss=50.0)
        run.loop._link._heard_s = float("inf")
    if step == BAD and run.rank == 1:
        run.weight = 1e4


def norm_of_the_whole(run: Run, step: int) -> None:
    """The bound is between the norm of a part and that of the whole."""
    if run.guard is not None:
        bound = BOUND if step == BAD else None
        run.loop._link.limits = wire.Limits(run=run.loop.run, version=1, grad_norm=bound)


def rollback_one_late(run: Run, step: int) -> None:
    """One rank hears of it three steps later than the other."""
    if run.guard is not None and step == BAD - 3 * (run.rank == 0):
        run.give("rollback", onset=ONSET)


def nan_and_rollback(run: Run, step: int) -> None:
    nan_on_one(run, step)
    if run.guard is not None and step == BAD:
        run.give("rollback", onset=ONSET)


def snapshots_differ(run: Run, step: int) -> None:
    """One rank has lost its newest snapshot that would do."""
    if run.guard is None:
        return
    if step == BAD:
        ring = run.loop._acting._ring
        if run.rank == 1:
            ring._ring = [s for s in ring._ring if s.step != RESTORED]
        run.give("rollback", onset=ONSET)


def orders_cross(run: Run, step: int) -> None:
    """Two orders, that arrive in another order on each rank."""
    if run.guard is not None and step in (BAD - 4, BAD - 2):
        first = (step == BAD - 4) == (run.rank == 0)
        if first:
            run.give("lower_lr", number=1, factor=0.5)
        else:
            run.give("skip", number=2)


def by_agent(run: Run, step: int) -> None:
    """Ordered by a person; the loop goes on until it is carried out."""
    if step != BAD:
        return
    eventually(lambda: run.loop._link._connected)
    dist.barrier()
    if run.rank == 0:
        with Client(find_home()) as client:
            client.request(by_hand(run.loop.run))
    eventually(lambda: bool(run.loop._link.orders))


def by_hand(run: str) -> feed.SendCommand:
    """Asked again, it tells what came of it."""
    return feed.SendCommand(run=run, command="by-hand", action="rollback", args={"onset": ONSET})


def one_observes(run: Run, step: int) -> None:
    """A rank that cannot act any more."""
    nan_on_one(run, step)
    if run.guard is not None and step == BAD - 4 and run.rank == 1:
        run.guard.only_observe("just so")


def killed(run: Run, step: int) -> None:
    """After it has voted for a rollback, before it is carried out."""
    if run.guard is None:
        return
    if step == BAD:
        run.give("rollback", onset=ONSET)
    if step == BAD + 1 and run.rank == 1:
        run.loop._acting.open_gate = lambda: os.kill(os.getpid(), signal.SIGKILL)


CASES = {
    "bare": Case(_ddp, policy="bare"),
    "clean": Case(_ddp),
    "clean-observed": Case(_ddp, policy="observe"),
    "nan": Case(_ddp, nan_on_one),
    "nan-unfused": Case(_ddp, nan_on_one, fused=False),
    "left-out": Case(_ddp, policy="bare", leaves_out=(BAD,)),
    "unfused-left-out": Case(_ddp, policy="bare", leaves_out=(BAD,), fused=False),
    "spike": Case(_ddp, spike_on_one),
    "late": Case(_ddp, rollback_one_late),
    "late-by-hand": Case(_ddp, policy="bare", goes_back=(OBEYED, RESTORED)),
    "differ": Case(_ddp, snapshots_differ),
    "differ-by-hand": Case(_ddp, policy="bare", goes_back=(OBEYED, DEEPER)),
    "cross": Case(_ddp, orders_cross),
    "by-agent": Case(_ddp, by_agent),
    "one-observes": Case(_ddp, one_observes),
    "observed-nan": Case(_ddp, nan_on_one, policy="bare"),
    "observed-order": Case(_ddp, rollback_one_late, policy="observe"),
    "sharded-bare": Case(_sharded, policy="bare"),
    "sharded-clean": Case(_sharded),
    "sharded-nan": Case(_sharded, nan_and_rollback),
    "sharded-nan-by-hand": Case(
        _sharded, policy="bare", leaves_out=(BAD,), goes_back=(OBEYED, RESTORED)
    ),
    "sharded-spike": Case(_sharded, norm_of_the_whole),
    "sharded-left-out": Case(_sharded, policy="bare", leaves_out=(BAD,)),
    "alone-bare": Case(lambda model: model, policy="bare", stops=BAD),
    "alone": Case(lambda model: model, stops=BAD),
    "killed": Case(_ddp, killed),
}


def train_all(out: Path, names: list[str], rank: int) -> None:
    """All cases, one after the other, in a process of its own."""
    home = os.environ["LOSSGUARD_HOME"]
    lines = lines_said()
    for name in names:
        lines.clear()
        vote_group.PATIENCE_S = 2.0 if name == "alone" else 60.0
        os.environ["LOSSGUARD_HOME"] = home if name == "by-agent" else str(out / "no-agent")
        run = Run(CASES[name], name)
        try:
            ended = run.train()
        except RuntimeError as error:
            ended = run.ended
            ended.error = str(error)
            frames = traceback.extract_tb(error.__traceback__)
            ended.raised_in = [frame.filename for frame in frames]
        ended.log = list(lines)
        (out / f"{name}.{rank}").write_bytes(msgspec.msgpack.encode(ended))
    dist.destroy_process_group()


def main(out: Path, world: int, names: list[str]) -> None:
    """On so many ranks, which share what was imported; their exit codes are written down."""
    codes = fork_ranks(world, partial(train_all, out, names), 120)
    (out / "codes").write_bytes(msgspec.msgpack.encode(codes))


if __name__ == "__main__":
    for launch in sys.argv[2:]:
        count, _, cases = launch.partition(":")
        place = Path(sys.argv[1]) / count
        place.mkdir()
        main(place, int(count), cases.split(","))
