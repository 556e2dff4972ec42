"""One tiny training after the other, each cut over ranks otherwise.

    python -m tests.e2e.ranks.training OUT RANKS:MODE,MODE...
    torchrun --nproc-per-node 2 -m tests.e2e.ranks.training OUT MODE,MODE...

Of every mode it writes what a single process would have measured, what each rank measured, and what
the same training communicates and ends with when nobody watches.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from lossguard.probes.guard import attach
from lossguard.probes.outbox import Measured
from tests.e2e.ranks.hearing import lines_said
from tests.e2e.ranks.jobs import fork_ranks

STEPS = 18
MAX_NORM = 0.05


class Frame(msgspec.Struct):
    """One step as a rank sends it."""

    step: int
    names: list[str]
    holders: list[list[int]]
    held_by: list[int]
    values: bytes


class Told(msgspec.Struct):
    """What a rank measured of one training, and what the same training does unwatched."""

    frames: list[Frame]
    losses: list[float]
    log: list[str]
    collectives: list[dict[str, int]]
    collectives_unwatched: list[dict[str, int]]
    weights: str
    weights_unwatched: str


class Expected(msgspec.Struct):
    """What one process that sees all the data measures: by name, of each step."""

    grad_norm: list[dict[str, float]]
    weight_norm: list[dict[str, float]]
    total: list[float]


class Network(nn.Module):
    """Shapes that two ranks cannot share evenly, and some that they can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, 6) to (batch, length, 5)."""
        y: Tensor = self.head(self.down(torch.relu(self.up(self.norm(self.first(x))))))
        return y


class Mode(NamedTuple):
    """How a training is cut over ranks. ``data`` is how many ways the batch is split."""

    wrap: Callable[[Network], nn.Module]
    data: Callable[[], tuple[int, int]]
    micro: int = 1
    clips: bool = False


def _split() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def _all() -> tuple[int, int]:
    return 0, 1


def _sharded(model: Network, **more: Any) -> nn.Module:
    for part in (model.up, model.down):
        fully_shard(part, **more)
    fully_shard(model, **more)
    return model


def _flat(model: Network) -> nn.Module:
    options: Any = {"use_orig_params": True, "device_id": torch.device("cpu")}
    model.up = FullyShardedDataParallel(model.up, **options)  # type: ignore[assignment]
    return FullyShardedDataParallel(model, **options)


def _columns_and_rows(model: Network, mesh: Any = None) -> nn.Module:
    plan: Any = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    parallelize_module(model, mesh or init_device_mesh("cpu", (dist.get_world_size(),)), plan)
    return model


def _along_the_sequence(model: Network) -> nn.Module:
    plan: Any = {
        "first": ColwiseParallel(output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), plan)
    return model


def _both(model: Network) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    _columns_and_rows(model, mesh["tp"])
    return _sharded(model, mesh=mesh["dp"])


MODES = {
    "ddp": Mode(DistributedDataParallel, _split, micro=2, clips=True),
    "fsdp": Mode(_sharded, _split),
    "fsdp-clipping": Mode(_sharded, _split, micro=2, clips=True),
    "flat": Mode(_flat, _split, clips=True),
    "tensor": Mode(_columns_and_rows, _all),
    "sequence": Mode(_along_the_sequence, _all),
    "fsdp-tensor": Mode(_both, lambda: (dist.get_rank() // 2, 2)),
}


def batch(step: int) -> tuple[Tensor, Tensor]:
    """All ranks' data of one step."""
    generator = torch.Generator().manual_seed(step)
    scale = 1.0 + step % 5
    return scale * torch.randn(8, 4, 6, generator=generator), torch.zeros(8, 4, 5)


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, mode: Mode) -> float:
    """Forward, backward, clip, update, on this rank's part of the data; its loss."""
    total = 0.0
    index, count = mode.data()
    x, y = (t[index::count] for t in batch(step))
    optimizer.zero_grad()
    for k in range(mode.micro):
        holds_back = k < mode.micro - 1 and isinstance(model, DistributedDataParallel)
        with model.no_sync() if holds_back else nullcontext():  # type: ignore[operator]
            loss = nn.functional.mse_loss(model(x[k :: mode.micro]), y[k :: mode.micro])
            (loss / mode.micro).backward()
        total += float(loss.detach()) / mode.micro
    if mode.clips and isinstance(model, FullyShardedDataParallel):
        model.clip_grad_norm_(MAX_NORM)
    elif mode.clips:
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    return total


def fresh(wrap: Callable[[Network], nn.Module]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same weights every time."""
    torch.manual_seed(0)
    model = wrap(Network())
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def reference(mode: Mode) -> Expected:
    """The training in one process, measured by hand in float64."""
    expected = Expected([], [], [])
    model, optimizer = fresh(lambda whole: whole)
    inner = Mode(lambda whole: whole, _all, mode.micro, mode.clips)

    def look(*_: Any) -> None:
        grads = {n: p.grad for n, p in model.named_parameters()}
        norms = {n: float(g.double().norm()) for n, g in grads.items() if g is not None}
        expected.grad_norm.append(norms)
        expected.total.append(sum(norm * norm for norm in norms.values()) ** 0.5)

    def looking(*given: Any) -> Tensor:
        look()
        return clip(*given)

    clip = nn.utils.clip_grad_norm_
    if not mode.clips:
        optimizer.register_step_pre_hook(look)
    for step in range(STEPS):
        weights = {n: float(p.detach().double().norm()) for n, p in model.named_parameters()}
        expected.weight_norm.append(weights)
        nn.utils.clip_grad_norm_ = looking  # type: ignore[assignment]
        one_step(model, optimizer, step, inner)
        nn.utils.clip_grad_norm_ = clip
    return expected


class Communication(TorchDispatchMode):
    """Counts what reaches a process group, whoever asks for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented  # its own operations come by here
        if "c10d" in func.namespace:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def digest(model: nn.Module) -> str:
    """Of the bits of this rank's weights."""
    with torch.no_grad():
        parts = [getattr(p, "_local_tensor", p).numpy().tobytes() for p in model.parameters()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


class Trained(NamedTuple):
    """What came of a training on this rank: collectives and losses by step, and the weights."""

    collectives: list[dict[str, int]]
    losses: list[float]
    weights: str


def trained(mode: Mode, name: str, frames: list[Frame] | None) -> Trained:
    """The training, watched where there is somewhere to put the frames."""
    model, optimizer = fresh(mode.wrap)
    guard = attach(model, optimizer, name=name) if frames is not None else None
    if guard is not None and frames is not None:
        _listen(guard, frames)
    collectives: list[dict[str, int]] = []
    losses: list[float] = []
    for step in range(STEPS):
        with Communication() as communication:
            losses.append(one_step(model, optimizer, step, mode))
        collectives.append(dict(communication.counts))
    if guard is not None:
        guard.close()
    return Trained(collectives, losses, digest(model))


def _listen(guard: Any, frames: list[Frame]) -> None:
    outbox = guard._loop._outbox
    put = outbox.put

    def listening(item: Any) -> None:
        if isinstance(item, Measured):
            values, _ = item.read()
            layout = item.layout
            frames.append(
                Frame(item.step, layout.names, layout.holders, layout.held_by, values.tobytes())
            )
        put(item)

    outbox.put = listening


def train_all(out: Path, modes: list[str], rank: int) -> None:
    """All modes, one after the other, in a process of its own."""
    lines = lines_said()
    for name in modes:
        mode = MODES[name]
        lines.clear()
        frames: list[Frame] = []
        plain, watched = trained(mode, name, None), trained(mode, name, frames)
        told = Told(
            frames,
            watched.losses,
            list(lines),
            watched.collectives,
            plain.collectives,
            watched.weights,
            plain.weights,
        )
        (out / f"{name}.{rank}").write_bytes(msgspec.msgpack.encode(told))
        if rank == 0:
            (out / f"{name}.expected").write_bytes(msgspec.msgpack.encode(reference(mode)))
    dist.destroy_process_group()


def main(out: Path, launches: list[str]) -> None:
    """On so many ranks, which share what was imported; or on this one of torchrun's."""
    for launch in launches:
        ranks, _, modes = launch.rpartition(":")
        work = partial(train_all, out, modes.split(","))
        if ranks:
            assert not any(fork_ranks(int(ranks), work)), launch
        else:
            torch.set_num_threads(1)
            dist.init_process_group("gloo")
            work(dist.get_rank())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
