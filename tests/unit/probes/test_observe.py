"""Observing changes nothing: not a bit of the losses, of the weights, of the random numbers."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossguard.probes import wire
from tests.unit.probes.loops import Watch, loop_of, same, weights_of

Outcome = tuple[list[float], list[Tensor], Any]


class Net(nn.Module):
    """Dropout and BatchNorm feel every stray random number and forward; ReLU and Tanh are looked
    at."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(16, 16),
            nn.Tanh(),
            nn.Linear(16, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) to (n, 1)."""
        out: Tensor = self.layers(x)
        return out


def train(
    watch: Watch | None, policy: str, *, fused: bool = False, amp: bool = False, steps: int = 35
) -> Outcome:
    """A loop with everything in it: accumulation, clipping, a schedule, evaluation, GradScaler."""
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    scaler = torch.amp.GradScaler("cpu", enabled=amp, init_scale=2.0**10)
    guard = watch(model, optimizer, policy=policy, scheduler=scheduler) if watch else None
    if guard is not None:
        loop_of(guard)._link.limits = wire.Limits(run="r", version=1, grad_norm=1e4, loss=1e4)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        for _ in range(2):
            x = torch.randn(8, 5)
            with torch.autocast("cpu", torch.float16, enabled=amp):
                out = model(x)
            loss = nn.functional.mse_loss(out.float(), x.sum(1, keepdim=True)) / 2
            if amp and step == 4:
                loss = loss * math.inf
            scaler.scale(loss).backward()
            losses.append(float(loss.detach()))
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        if step % 4 == 0:
            model.eval()
            with torch.no_grad():
                evaluated = nn.functional.mse_loss(model(torch.ones(2, 5)), torch.ones(2, 1))
                losses.append(float(evaluated))
            model.train()
        if guard is not None:
            guard.log(val_loss=losses[-1], step_number=step)
    if guard is not None:
        guard.close()
    random_numbers = (random.random(), float(np.random.rand()), float(torch.rand(())))
    return losses, weights_of(model), (scaler.get_scale(), random_numbers)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("policy", ["observe", "guard"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("amp", [False, True])
def test_a_healthy_run_is_bitwise_the_same(
    watch: Watch, policy: str, fused: bool, amp: bool
) -> None:
    """Losses, weights, buffers, loss scale and all three random generators."""
    plain = train(None, policy, fused=fused, amp=amp)
    watched = train(watch, policy, fused=fused, amp=amp)
    assert same([torch.tensor(plain[0])], [torch.tensor(watched[0])])
    assert same(plain[1], watched[1])
    assert plain[2] == watched[2]


@pytest.mark.parametrize("algorithm", ["LBFGS", "closure"])
def test_an_optimizer_with_a_closure_is_the_same(
    watch: Watch, no_link: None, algorithm: str
) -> None:
    """The closure is called as often as without a watch."""

    def run(watched: bool) -> tuple[int, list[Tensor]]:
        torch.manual_seed(1)
        model = nn.Linear(3, 1)
        optimizer: Any = (
            torch.optim.LBFGS(model.parameters(), max_iter=4)
            if algorithm == "LBFGS"
            else torch.optim.SGD(model.parameters(), lr=0.1)
        )
        if watched:
            watch(model, optimizer, policy="guard")
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss: Tensor = model(torch.ones(2, 3)).square().sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return calls, weights_of(model)

    plain, watched = run(False), run(True)
    assert plain[0] == watched[0]
    assert same(plain[1], watched[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_dtype_is_no_trouble(
    watch: Watch, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    """Scripts that set it leave it set; no part of the probe may fail on it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        guard = watch(model, optimizer, policy="guard")
        loop_of(guard)._link.limits = wire.Limits(run="r", version=1, grad_norm=1e4, loss=1e4)
        for _ in range(2):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    finally:
        torch.set_default_dtype(before)
    assert guard.step == 2
    assert not [r for r in caplog.records if r.name == "lossguard"]


class Words(nn.Module):
    """Tokens in, logits out, ReLU and Sigmoid between: every sense has something to hear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1), nn.Sigmoid())
        self.head = nn.Linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length) to (batch, 11, length)."""
        logits: Tensor = self.head(self.layers(self.embedding(x)))
        return logits.transpose(1, 2)


def words_run(watch: Watch | None) -> tuple[list[Any], Any]:
    """33 steps with evaluations between: all tensors at the end of each, and random numbers."""
    torch.manual_seed(3)
    model = Words()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    guard = watch(model, optimizer) if watch else None
    seen: list[Any] = []
    for step in range(33):
        x = torch.randint(11, (4, 9))
        logits = model(x[:, :-1])
        loss = nn.functional.cross_entropy(logits, x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        versions = [t._version for t in (x, logits, loss, *model.parameters())]
        seen.append((logits.detach(), loss.detach(), versions))
        if step % 10 == 9:
            with torch.inference_mode():
                seen.append(nn.functional.cross_entropy(model(x), x))
    if guard is not None:
        assert not loop_of(guard)._shield._off
    return [seen, weights_of(model), optimizer.state_dict()], torch.rand(3)


def test_every_sense_leaves_every_tensor_alone(watch: Watch, no_link: None) -> None:
    """Bitwise, and not even written to and put back: the version counters are the same."""
    plain, watched = words_run(None), words_run(watch)
    assert same(plain[0], watched[0])
    assert torch.equal(plain[1], watched[1])


class HeldByGraph:
    """Lives as long as the graph that it is given to."""


def test_nothing_of_a_step_is_kept_alive(watch: Watch, no_link: None) -> None:
    """Neither the graph nor activations, input, logits or loss, at a sampled step least of all."""
    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    gc.collect()
    gc.disable()
    try:
        for _ in range(18):
            x = torch.randint(11, (4, 9))
            hidden = model.embedding(x)
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, x)
            held_by_graph = HeldByGraph()
            assert logits.grad_fn is not None
            logits.grad_fn.register_hook(lambda *_, held=held_by_graph: None)
            loss.backward()
            optimizer.step()
            alive: list[weakref.ref[Any]] = [weakref.ref(t) for t in (x, hidden, logits, loss)]
            alive.append(weakref.ref(held_by_graph))
            with torch.no_grad():
                validation = model(x)
                alive.append(weakref.ref(validation))
                alive.append(weakref.ref(nn.functional.cross_entropy(validation, x)))
            del x, hidden, logits, loss, validation, held_by_graph
            assert [ref() for ref in alive] == [None] * len(alive)
    finally:
        gc.enable()


def test_a_step_function_keeps_its_results(watch: Watch, no_link: None) -> None:
    """``backward``, clipping, ``scale`` and ``step`` return what they return without a watch."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    closure: Callable[[], float] = lambda: 7.0  # noqa: E731
    loss = model(torch.ones(1, 2)).sum()
    scaled = scaler.scale(loss)
    assert torch.equal(scaled, loss * 4)
    torch.autograd.backward(tensors=scaled)
    norm = nn.utils.clip_grad_norm_(parameters=model.parameters(), max_norm=1.0)
    assert float(norm) == pytest.approx(4 * math.sqrt(3))
    assert optimizer.step(closure) == 7.0
