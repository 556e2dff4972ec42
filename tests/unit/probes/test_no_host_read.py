"""The hot path reads nothing from the device, and adds a fixed number of operations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lossguard.probes import measurement, wire
from lossguard.probes.gradients import GradientNorms
from lossguard.probes.guard import Guard
from lossguard.probes.measurement import missing_value
from lossguard.probes.reflex import Reflex
from lossguard.probes.transfer import Values
from tests.unit.probes.loops import Watch, loop_of

pytestmark = pytest.mark.usefixtures("no_link")

READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "_to_cpu", "equal", "unique"}


class Operations(TorchDispatchMode):
    """Counts the operations that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def reads(self) -> int:
        """How often the host looked at a value."""
        return sum(self.counts[name] for name in READS)


def layers(number: int) -> nn.Module:
    """``number`` layers of two parameters each, in two blocks."""
    half = [nn.Linear(4, 4) for _ in range(number // 2)]
    rest = [nn.Linear(4, 4) for _ in range(number - number // 2)]
    return nn.ModuleList([nn.Sequential(*half), nn.Sequential(*rest)])


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Forward, backward, update."""
    x = torch.ones(2, 4)
    for block in model.children():
        x = block(x)
    optimizer.zero_grad()
    x.square().mean().backward()
    optimizer.step()


def counted(watch: Watch | None, policy: str, fused: bool, number: int = 5) -> Counter[str]:
    """The operations of the fourth step."""
    model = layers(number)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, fused=fused, foreach=None if fused else True
    )
    guard: Guard | None = None
    if watch is not None:
        guard = watch(model, optimizer, policy=policy)
        loop_of(guard)._acting._ring._next_step = 10**9  # a snapshot is a copy of everything
    for _ in range(3):
        one_step(model, optimizer)
    if guard is not None:
        loop_of(guard)._link.limits = wire.Limits(run="r", version=1, grad_norm=1e6, loss=1e6)
        one_step(model, optimizer)  # new bounds are copied to the device once
    with Operations() as operations:
        one_step(model, optimizer)
    if guard is not None:
        guard.close()
    counts: Counter[str] = operations.counts
    return counts


@pytest.mark.parametrize(
    ("policy", "fused", "reads"),
    [("observe", False, 0), ("observe", True, 0), ("guard", True, 0), ("guard", False, 1)],
)
def test_only_the_veto_of_an_optimizer_that_is_not_fused_reads(
    watch: Watch, policy: str, fused: bool, reads: int
) -> None:
    """One scalar, once a step; nothing at all in the other three cases."""
    counts = counted(watch, policy, fused) - counted(None, policy, fused)
    assert sum(counts[name] for name in READS) == reads, counts


@pytest.mark.parametrize(
    ("policy", "fused", "most"), [("observe", True, 10), ("guard", True, 24), ("guard", False, 22)]
)
def test_the_operations_added_do_not_depend_on_the_number_of_parameters(
    watch: Watch, policy: str, fused: bool, most: int
) -> None:
    """10 parameters or 40: the same few operations a step, and not more than are named here."""
    added = []
    for number in (5, 20):
        extra = counted(watch, policy, fused, number) - counted(None, policy, fused, number)
        extra.pop("detach", None)  # an alias: no kernel
        extra.pop("unbind", None)
        added.append(extra)
    assert added[0] == added[1]
    assert added[0].total() <= most, dict(added[0])


class FakeArrival:
    """Values of a device that does not exist."""

    def __init__(self, size: int) -> None:
        self.size = size

    def ready(self) -> bool:
        """At once."""
        return True

    def read(self) -> Values:
        """Zeros."""
        return torch.zeros(self.size).numpy()


class FakeTransfer:
    """Takes the place of the pinned ring."""

    def send(self, vector: Tensor) -> FakeArrival:
        """Nothing is copied."""
        assert vector.device.type == "cuda"
        return FakeArrival(vector.numel())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("policy", ["observe", "guard"])
def test_the_whole_step_runs_on_cuda_tensors_without_a_read(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, policy: str, scaled: bool
) -> None:
    """Fake tensors raise wherever a decision would need their values."""
    monkeypatch.setattr(measurement, "transfer_for", lambda device, size: FakeTransfer())
    with FakeTensorMode(allow_non_fake_inputs=False):
        params = [nn.Parameter(torch.empty(4, 4, device="cuda")) for _ in range(3)]
        optimizer = torch.optim.AdamW(params, lr=1e-3, fused=True)
        guard = watch(None, optimizer, policy=policy)
        assert guard.run, "attached"
        loop = loop_of(guard)
        loop._acting._ring._next_step = 10**9
        off: list[tuple[str, str, str]] = []
        loop._shield._report = lambda *what: off.append(what)
        loop._link.limits = wire.Limits(run="r", version=1, grad_norm=3.0, loss=5.0)
        for dtype in (torch.float32, torch.float32):
            for p in params:
                p.grad = torch.empty(4, 4, device="cuda", dtype=dtype)
            loop._tap.before_backward(torch.empty((), device="cuda"))
            loop._tap.after_backward()
            if scaled:
                optimizer.grad_scale = torch.empty((), device="cuda")  # type: ignore[attr-defined]
                optimizer.found_inf = torch.empty((), device="cuda")  # type: ignore[attr-defined]
            optimizer.step()
            assert hasattr(optimizer, "found_inf") is scaled
        assert off == []
        assert guard.step == 2


def test_verdict_and_norms_are_on_the_device_of_the_parameters() -> None:
    """What they return is a CUDA tensor where the parameters are, in bf16 too."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        cuda = torch.device("cuda", 0)
        params: list[Tensor] = [
            nn.Parameter(torch.empty(4, device=cuda, dtype=dtype))
            for dtype in (torch.float32, torch.bfloat16, torch.float64)
        ]
        for p in params:
            p.grad = torch.empty_like(p)
        norms = GradientNorms(params, cuda, missing_value(cuda)).measure()
        assert norms is not None
        each, total = norms
        assert (each.device, total.device) == (cuda, cuda)
        assert (each.dtype, total.dtype) == (torch.float32, torch.float32)
        optimizer = torch.optim.SGD(params, lr=0.1)
        code = Reflex(optimizer, cuda).verdict(total, torch.empty((), device=cuda))
        assert code is not None
        assert code.device == cuda
