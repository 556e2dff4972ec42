"""The size of activations, with and without torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests.unit.probes.loops import Records, Tiny, Watch, loss_of, tokens

pytestmark = pytest.mark.usefixtures("no_link")


class Odd(nn.Module):
    """Puts out what ``wrap`` makes of a scaled input."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        """The wrapped product."""
        return self.wrap(x * self.weight)


def watched_odd(
    watch: Watch, wrap: Callable[[Tensor], Any]
) -> tuple[Odd, Callable[[], float | None]]:
    """The module, and a step that returns its recorded RMS."""
    odd = Odd(wrap)
    model = nn.Sequential(odd)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    records = Records(watch(model, optimizer))

    def step() -> float | None:
        odd.weight.grad = torch.zeros(())
        optimizer.step()
        return records.of("act_rms/0")[-1]

    return odd, step


def test_it_is_the_rms_of_every_watched_output(watch: Watch) -> None:
    """Embedding, blocks and head, against float64."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: dict[str, Tensor] = {}
    for name, module in (
        ("embedding", model.embedding),
        ("blocks.1", model.blocks[1]),
        ("head", model.head),
    ):
        module.register_forward_hook(
            lambda m, a, out, name=name: seen.__setitem__(name, out.detach())
        )
    records = Records(watch(model, optimizer))
    loss_of(model, 1).backward()
    optimizer.step()
    for name, out in seen.items():
        expected = float(out.double().square().mean().sqrt())
        assert records.of(f"act_rms/{name}")[0] == pytest.approx(expected, rel=1e-5)


def test_of_a_very_large_output_it_is_that_of_some_of_its_rows(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of a language model: as good as all of them."""
    monkeypatch.setattr("lossguard.probes.activations._MOST", 1 << 14)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 200))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    out = model(torch.randn(40, 64, 16))
    out.square().mean().backward()
    optimizer.step()
    measured = records.of("act_rms/0")[0]
    expected = float(out.detach().double().square().mean().sqrt())
    assert measured == pytest.approx(expected, rel=0.03)
    assert measured != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, 1),
        lambda x: [None, x],
        lambda x: {"ids": torch.arange(3), "out": x},
        lambda x: x.double(),
        lambda x: x.bfloat16(),
        lambda x: x.reshape(1, -1).squeeze(),
    ],
    ids=["tuple", "list", "dict", "float64", "bfloat16", "view"],
)
def test_the_first_floating_point_tensor_counts(
    watch: Watch, wrap: Callable[[Tensor], Any]
) -> None:
    """In whatever it is wrapped, of whatever precision."""
    odd, step = watched_odd(watch, wrap)
    odd(torch.full((4,), 2.0))
    assert step() == pytest.approx(2.0)


@pytest.mark.parametrize(
    "wrap", [lambda x: None, lambda x: "text", lambda x: x.long(), lambda x: x[:0]]
)
def test_outputs_without_numbers_are_left_alone(
    watch: Watch, wrap: Callable[[Tensor], Any]
) -> None:
    """None, text, integers, nothing at all: not measured, and no harm done."""
    odd, step = watched_odd(watch, wrap)
    odd(torch.full((4,), 2.0))
    assert step() is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_inf_survive_also_among_micro_batches(watch: Watch, bad: float) -> None:
    """Whether it is the first or the last of three."""
    for position in range(3):
        odd, step = watched_odd(watch, lambda x: x)
        for i in range(3):
            odd(torch.tensor([1.0, bad if i == position else 1.0, 1.0]))
        value = step()
        assert value is not None
        assert not math.isfinite(value)


def test_the_largest_rms_of_the_micro_batches_stands(watch: Watch) -> None:
    """Also where they differ in length."""
    odd, step = watched_odd(watch, lambda x: x)
    for value, length in ((2.0, 100), (3.0, 4), (1.0, 1000)):
        odd(torch.full((length,), value))
    assert step() == pytest.approx(3.0)


def test_evaluation_is_not_measured(watch: Watch) -> None:
    """Forwards under ``no_grad`` are no training forwards."""
    odd, step = watched_odd(watch, lambda x: x)
    odd(torch.full((4,), 2.0))
    with torch.no_grad():
        odd(torch.full((4,), 50.0))
    with torch.inference_mode():
        odd(torch.full((4,), 60.0))
    assert step() == pytest.approx(2.0)
    assert step() is None


def test_closing_removes_every_hook(watch: Watch) -> None:
    """From modules and optimizer."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    assert any(m._forward_hooks for m in model.modules())
    guard.close()
    assert not any(m._forward_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


# --- torch.compile --------------------------------------------------------------------------


def compiled_run(watch: Watch | None, attach_first: bool, backend: str) -> tuple[Any, list[float]]:
    """Frames, graphs and breaks of five compiled training steps, and the losses."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    counter = CompileCounterWithBackend(backend)
    if watch and attach_first:
        watch(model, optimizer, policy="guard")
    compiled = torch.compile(model, backend=counter)
    if watch and not attach_first:
        watch(compiled, optimizer, policy="guard")
    losses = []
    for seed in range(5):
        optimizer.zero_grad()
        logits = compiled(tokens(seed))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens(seed).flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    breaks = dict(torch._dynamo.utils.counters["graph_break"])
    return (counter.frame_count, counter.op_count, breaks), losses


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("attach_first", [True, False])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_stays_in_one_graph(
    watch: Watch, attach_first: bool, backend: str
) -> None:
    """Attached before or after compile: no more frames, operations or breaks, the same losses."""
    assert compiled_run(watch, attach_first, backend) == compiled_run(None, attach_first, backend)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_attaching_and_closing_in_the_middle_recompiles_nothing(watch: Watch) -> None:
    """A model that is compiled already keeps its graph through both."""
    torch._dynamo.reset()
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter)
    for attached in (False, True, False):
        guard = watch(compiled, optimizer) if attached else None
        for seed in range(2):
            compiled(tokens(seed)).sum().backward()
            optimizer.step()
        if guard is not None:
            guard.close()
    assert counter.frame_count == 1


def compiled_update(watch: Watch | None) -> tuple[int, Tensor, int]:
    """Compiled operations, weights and counted steps of three compiled updates."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    guard = watch(model, optimizer) if watch else None
    counter = CompileCounterWithBackend("eager")

    @torch.compile(backend="eager", fullgraph=True)
    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    @torch.compile(backend=counter)
    def update() -> None:
        optimizer.step()

    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        clip()
        update()
    return counter.op_count, model.weight.detach(), guard.step if guard else 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_clipping_and_a_compiled_update_are_left_whole(watch: Watch) -> None:
    """The same graph as without a watch, the same weights; the steps are still counted."""
    watched, plain = compiled_update(watch), compiled_update(None)
    assert watched[0] == plain[0]
    assert torch.equal(watched[1], plain[1])
    assert watched[2] == plain[2]
