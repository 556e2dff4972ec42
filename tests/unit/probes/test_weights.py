"""Norms of weights and what an update does to them, against copies kept by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossguard.probes import wire
from lossguard.probes.weights import watched_weights
from tests.unit.probes.loops import Records, Tiny, Watch, loop_of, loss_of

pytestmark = pytest.mark.usefixtures("no_link")


def family(step: dict[str, float], name: str) -> dict[str, float]:
    """One family of a step."""
    return {n.partition("/")[2]: v for n, v in step.items() if n.startswith(f"{name}/")}


def norm(tensor: Tensor) -> float:
    """In float64."""
    return float(tensor.detach().double().norm())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("algorithm", [torch.optim.AdamW, torch.optim.SGD])
def test_both_are_those_of_the_weights(watch: Watch, algorithm: Any, fused: bool) -> None:
    """Norms just before the sampled update; the ratio is that of the update before it."""
    model = Tiny()
    optimizer = algorithm(model.parameters(), lr=0.05, fused=fused)
    records = Records(watch(model, optimizer))
    copies: list[dict[str, Tensor]] = []
    for step in range(34):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        copies.append({n: p.detach().clone() for n, p in model.named_parameters()})
        optimizer.step()
    for index in (15, 31):
        sampled, now, before = records.steps[index], copies[index], copies[index - 1]
        assert family(sampled, "weight_norm") == pytest.approx({n: norm(p) for n, p in now.items()})
        ratios = {n: norm(now[n] - p) / norm(p) for n, p in before.items() if norm(p) > 0}
        assert family(sampled, "update_ratio") == pytest.approx(ratios, rel=1e-4)
    measured = [i + 1 for i, s in enumerate(records.steps) if family(s, "weight_norm")]
    assert measured == [16, 32]
    assert not any(
        family(step, "update_ratio") for i, step in enumerate(records.steps) if i % 16 != 15
    )


def test_a_weight_of_zeros_has_no_ratio(watch: Watch) -> None:
    """Its first update is infinitely large, which is no news; its norm is 0."""
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    for _ in range(16):
        optimizer.zero_grad()
        model.weight.grad = torch.ones(2, 3)
        optimizer.step()
    assert "update_ratio/bias" in records.missing[15]
    assert records.steps[15]["update_ratio/weight"] > 0
    assert records.steps[15]["weight_norm/bias"] == 0.0


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_that_was_vetoed_has_no_ratio(watch: Watch, fused: bool) -> None:
    """Whether the kernel dropped it or the gradients were held back; the next one has."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    guard = watch(model, optimizer, policy="guard")
    records = Records(guard)
    loop_of(guard)._link.limits = wire.Limits(run="r", version=1, grad_norm=100.0)
    for step in range(1, 33):
        optimizer.zero_grad()
        scale = 1e6 if step == 15 else 1.0
        (scale * model(torch.ones(1, 3)).sum()).backward()
        optimizer.step()
    assert records.steps[14]["skipped"] == wire.SKIP_GRAD_NORM
    assert {"update_ratio/weight", "update_ratio/bias"} <= records.missing[15]
    assert family(records.steps[31], "update_ratio").keys() == {"weight", "bias"}


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_that_gradscaler_dropped_has_no_ratio(watch: Watch, fused: bool) -> None:
    """An overflow at the step before the sampled one."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    records = Records(watch(model, optimizer, scaler=scaler))
    for step in range(1, 17):
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3)).sum() * (torch.inf if step == 15 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert records.steps[14]["skipped"] == wire.SKIP_SCALER
    assert {"update_ratio/weight", "update_ratio/bias"} <= records.missing[15]
    assert "weight_norm/weight" in records.steps[15]


def test_a_step_that_died_has_no_ratio(watch: Watch) -> None:
    """What was kept for it is let go."""

    class Dies(torch.optim.SGD):
        dying = False

        def step(self, closure: Any = None) -> Any:
            if self.dying:
                raise RuntimeError("out of memory")
            return super().step(closure)

    model = nn.Linear(3, 2)
    optimizer = Dies(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    records = Records(guard)
    for step in range(1, 17):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.dying = step == 15
        if optimizer.dying:
            with pytest.raises(RuntimeError, match="out of memory"):
                optimizer.step()
            assert loop_of(guard)._senses.weights._before
        else:
            optimizer.step()
    assert {"update_ratio/weight", "update_ratio/bias"} <= records.missing[15]
    assert loop_of(guard)._senses.weights._before == []


def test_large_weights_are_compared_in_a_part(watch: Watch) -> None:
    """About the same ratio, of at most 4,096 elements a weight."""
    model = nn.Linear(300, 400, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    records = Records(guard)
    weights = loop_of(guard)._senses.weights
    sizes: list[int] = []
    after_update = weights.after_update

    def looking(skipped: Tensor | None) -> None:
        sizes.extend(copy.numel() for copy in weights._before)
        after_update(skipped)

    weights.after_update = looking  # type: ignore[method-assign]
    before = Tensor()
    for step in range(16):
        model.weight.grad = torch.randn(400, 300)
        if step == 14:
            before = model.weight.detach().clone()
        optimizer.step()
        if step == 14:
            expected = norm(model.weight.detach() - before) / norm(before)
    assert records.steps[15]["update_ratio/weight"] == pytest.approx(expected, rel=0.05)
    assert len(sizes) == 1
    assert 1_500 < sizes[0] <= 4_096


def test_weights_come_before_biases() -> None:
    """At most 64, spread over the depth, in the order of the model."""
    matrices, vectors = [torch.ones(2, 2)] * 100, [torch.ones(2)] * 10
    chosen = watched_weights([*vectors, *matrices])
    assert len(chosen) == 64
    assert min(chosen) >= 10
    assert chosen[-1] >= 107
    assert chosen == sorted(chosen)
    assert watched_weights([*matrices[:3], *vectors[:2]]) == [0, 1, 2, 3, 4]
    assert watched_weights([]) == []


def test_every_precision_and_layout(watch: Watch) -> None:
    """bf16, float64 and channels-last weights in one optimizer."""
    params = [
        nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16)),
        nn.Parameter(torch.ones(3, dtype=torch.float64)),
        nn.Parameter(torch.ones(40, 30, 4, 4).to(memory_format=torch.channels_last)),
    ]
    optimizer = torch.optim.SGD(params, lr=0.5)
    records = Records(watch(None, optimizer))
    for _ in range(16):
        for p in params:
            p.grad = p.detach() / 2
        optimizer.step()
    ratios = family(records.steps[15], "update_ratio")
    assert list(ratios.values()) == pytest.approx([0.25] * 3, rel=0.02)
    norms = family(records.steps[15], "weight_norm")
    assert list(norms.values()) == pytest.approx([norm(p) / 0.75 for p in params], rel=0.02)
