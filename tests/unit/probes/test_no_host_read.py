"""The hot path reads nothing from the device, and adds a fixed number of operations."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from lossguard.probes import measurement, wire
from lossguard.probes.gradients import GradientNorms
from lossguard.probes.guard import Guard
from lossguard.probes.listener import LossCall
from lossguard.probes.loop import Loop
from lossguard.probes.measurement import missing_value
from lossguard.probes.outbox import Measured
from lossguard.probes.reflex import Reflex
from lossguard.probes.transfer import Values
from tests.unit.probes.loops import Watch, loop_of

pytestmark = pytest.mark.usefixtures("no_link")

SIGNATURE = inspect.signature(nn.functional.cross_entropy)
READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "_to_cpu", "equal", "unique"}
VIEWS = {
    "detach",
    "unbind",
    "unsqueeze",
    "slice",
    "view",
    "split_with_sizes",
    "permute",
    "select",
    "alias",
}
"""Aliases: they start no kernel."""


class Strict(TorchDispatchMode):
    """Fails where the host would wait: values looked at, shapes that depend on values, copies from
    the device that nobody said need not be waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        assert name not in READS, name
        assert not waits & set(func.tags), name
        result = func(*args, **(kwargs or {}))
        given = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)]
        arrives = isinstance(result, Tensor) and result.device.type == "cpu"
        if arrives and any(x.device.type != "cpu" for x in given):
            raise AssertionError(f"{name} copies from the device")
        return result


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


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.cpu(),
        lambda x: x.to("cpu", non_blocking=False),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.equal(x, x),
        lambda x: torch.empty(3).copy_(x),
        lambda x: x.sum().item(),
    ],
)
def test_a_read_would_be_noticed(read: Any) -> None:
    """By the strict mode, or by the fake tensors themselves."""
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        assert (x + 1).is_cuda
        with (
            Strict(),
            pytest.raises(
                (AssertionError, DynamicOutputShapeException, DataDependentOutputException)
            ),
        ):
            read(x)


def layers(number: int) -> nn.Module:
    """``number`` layers of two parameters each, in two blocks."""
    half = [nn.Linear(4, 4) for _ in range(number // 2)]
    rest = [nn.Linear(4, 4) for _ in range(number - number // 2)]
    return nn.ModuleList([nn.Sequential(*half), nn.Sequential(*rest)])


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, clips: bool = False) -> None:
    """Forward, backward, perhaps clipping, update."""
    x = torch.ones(2, 4)
    for block in model.children():
        x = block(x)
    optimizer.zero_grad()
    x.square().mean().backward()
    if clips:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def counted(
    watch: Watch | None, policy: str, fused: bool, number: int = 5, *, clips: bool = False
) -> Counter[str]:
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
        one_step(model, optimizer, clips)
    if guard is not None:
        loop_of(guard)._link.limits = wire.Limits(run="r", version=1, grad_norm=1e6, loss=1e6)
        one_step(model, optimizer, clips)  # new bounds are copied to the device once
    with Operations() as operations:
        one_step(model, optimizer, clips)
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


@pytest.mark.parametrize(("policy", "fused"), [("observe", True), ("guard", True)])
def test_a_clipped_step_adds_a_pass_less(watch: Watch, policy: str, fused: bool) -> None:
    """Clipping has taken the norms: 10 parameters or 40, there is no second pass over them."""
    added = []
    for number in (5, 20):
        clipped = counted(watch, policy, fused, number, clips=True)
        added.append(clipped - counted(None, policy, fused, number, clips=True))
        for name in VIEWS:
            added[-1].pop(name, None)
    unclipped = counted(watch, policy, fused) - counted(None, policy, fused)
    assert added[0] == added[1]
    assert (unclipped["_foreach_norm"], added[0]["_foreach_norm"]) == (1, 0)
    assert sum(added[0][name] for name in READS) == 0


class Network(nn.Module):
    """Embedding or linear first, then ReLU, Tanh, Sigmoid and a head: all that is measured."""

    def __init__(self, tokens: bool, extra: int) -> None:
        super().__init__()
        self.first = nn.Embedding(11, 8) if tokens else nn.Linear(8, 8)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), *(nn.Linear(8, 8) for _ in range(extra))),
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid()),
        )
        self.head = nn.Linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 11)."""
        logits: Tensor = self.head(self.blocks(self.first(x)))
        return logits.reshape(-1, 11)


def added(watch: Watch, step: int, tokens: bool, extra: int = 0, micro: int = 1) -> Counter[str]:
    """The kernels that a watch adds to this step, evaluation before it included."""
    counts: list[Counter[str]] = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = Network(tokens, extra)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        guard = watch(model, optimizer) if watched else None
        x = torch.randint(11, (4, 6)) if tokens else torch.randn(24, 8)
        target = torch.randint(11, (24,))
        for _ in range(step):
            with Operations() as operations:
                optimizer.zero_grad()
                for _ in range(micro):
                    nn.functional.cross_entropy(model(x), target).backward()
                optimizer.step()
        counts.append(operations.counts)
        if guard is not None:
            assert not loop_of(guard)._shield._off
            guard.close()
    difference = counts[1] - counts[0]
    assert not set(difference) & READS, difference
    for name in VIEWS:
        difference.pop(name, None)
    return difference


@pytest.mark.parametrize(
    ("step", "tokens", "most"),
    [
        (8, True, 10), (8, False, 9),
        (15, True, 19), (15, False, 18),
        (16, True, 74), (16, False, 70),
        (17, True, 10), (17, False, 9),
    ],
)  # fmt: skip
def test_a_step_reads_nothing_and_adds_no_more_kernels_than_are_named_here(
    watch: Watch, step: int, tokens: bool, most: int
) -> None:
    """Four watched modules and three activations; between samples, before one, at one, after it.
    As many for 30 more parameters."""
    few = added(watch, step, tokens)
    assert few.total() <= most, dict(few)
    assert added(watch, step, tokens, extra=15) == few


def test_accumulation_adds_only_what_every_forward_has(watch: Watch) -> None:
    """The largest of the micro-batches, and the sum of their losses; a sample is taken once."""
    for step in (8, 16):
        once, thrice = added(watch, step, True), added(watch, step, True, micro=3)
        more = thrice - once
        per_forward = 6 + 2 + 4 * 2 + 2  # input, its largest; activations, their largest; loss, sum
        assert more.total() <= 2 * per_forward + 1, dict(more)


def test_an_evaluation_reads_nothing(watch: Watch) -> None:
    """One kernel a loss, and one for their mean."""
    counts: list[Counter[str]] = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = Network(tokens=True, extra=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        guard = watch(model, optimizer) if watched else None
        x, target = torch.randint(11, (4, 6)), torch.randint(11, (24,))
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
        with Operations() as operations, torch.no_grad():
            for _ in range(5):
                nn.functional.cross_entropy(model(x), target)
        if guard is not None:
            with operations:
                found = loop_of(guard)._senses.take_evaluation()
            assert found.loss is not None
            guard.close()
        counts.append(operations.counts)
    difference = counts[1] - counts[0]
    for name in VIEWS:
        difference.pop(name, None)
    assert dict(difference) == {"_to_copy": 5, "add": 4, "div": 1}


class FakeArrival:
    """Values of a device that does not exist."""

    def __init__(self, size: int) -> None:
        self.size = size

    def ready(self) -> bool:
        """At once."""
        return True

    def read(self) -> Values:
        """Zeros."""
        return np.zeros(self.size, dtype=np.float32)

    def peek(self, begin: int, end: int) -> Values:
        """Of them."""
        return self.read()[begin:end]


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
            loop._senses.tap.before_backward(torch.empty((), device="cuda"))
            loop._senses.tap.after_backward()
            if scaled:
                optimizer.grad_scale = torch.empty((), device="cuda")  # type: ignore[attr-defined]
                optimizer.found_inf = torch.empty((), device="cuda")  # type: ignore[attr-defined]
            with Strict():
                optimizer.step()
            assert hasattr(optimizer, "found_inf") is scaled
        assert off == []
        assert guard.step == 2


def one_faked_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loop: Loop, x: Tensor, *, clips: bool
) -> None:
    """Two micro-batches, an evaluation, an update."""
    target = torch.zeros(24, dtype=torch.long, device="cuda")
    for training in (True, True, False):
        with torch.set_grad_enabled(training):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, target)
            # Of fakes nothing is heard, so the sense is told by hand.
            loop._senses.on_loss(LossCall("cross_entropy", SIGNATURE, (logits, target), {}, loss))
    loop._senses.tap.before_backward(loss)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    loop._senses.after_backward()
    if clips:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("kind", ["tokens", "floats"])
def test_every_sense_works_on_cuda_tensors_without_a_read(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, kind: str, clips: bool
) -> None:
    """Two rounds of samples, evaluations and micro-batches of a model that lies on a GPU."""
    monkeypatch.setattr(measurement, "transfer_for", lambda device, size: FakeTransfer())
    arrived: list[Measured] = []
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = Network(kind == "tokens", 2)
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                # Without a device autograd cannot even record: the gradients come by hand.
                fake = nn.Parameter(torch.empty(p.shape, device="cuda"), requires_grad=False)
                setattr(module, name, fake)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        guard = watch(model, optimizer)
        loop = loop_of(guard)
        loop._senses._evaluation._trained_with["cross_entropy"] = "mean"
        loop._outbox.put = arrived.append  # type: ignore[method-assign, assignment]
        if kind == "tokens":
            x = torch.zeros(4, 6, dtype=torch.long, device="cuda")
        else:
            x = torch.empty(24, 8, device="cuda")
        with Strict():
            for _ in range(33):
                one_faked_step(model, optimizer, loop, x, clips=clips)
        assert not loop._shield._off
        assert len(arrived) == 33
        sampled = [i + 1 for i, item in enumerate(arrived) if item.layout.layout == 1]
        assert sampled == [16, 32]
        guard.close()


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
        assert total is not None
        assert (each.device, total.device) == (cuda, cuda)
        assert (each.dtype, total.dtype) == (torch.float32, torch.float32)
        optimizer = torch.optim.SGD(params, lr=0.1)
        code = Reflex(optimizer, cuda).verdict(total, torch.empty((), device=cuda))
        assert code is not None
        assert code.device == cuda
