"""Loops with one loss, however they are written: found, left alone, and measured right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lossguard.probes.wire import SKIP_SCALER
from tests.unit.probes.loops import Records, Watch, same, weights_of
from tests.unit.probes.training import Script, Truth, named, require_true, require_unchanged

STEPS = 4


class Net(nn.Module):
    """Five numbers in, one out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.second = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) to (n, 1)."""
        y: Tensor = self.second(torch.tanh(self.first(x)))
        return y


def batch() -> tuple[Tensor, Tensor]:
    """Random: watching must not draw a number."""
    x = torch.randn(6, 5)
    return x, x.sum(1, keepdim=True)


def loss_of(model: nn.Module) -> Tensor:
    """Of the next batch."""
    x, y = batch()
    return functional.mse_loss(model(x), y)


def ordinary_step(truth: Truth, model: nn.Module, optimizer: Any, loss: Tensor) -> None:
    """All that follows a forward in most scripts."""
    optimizer.zero_grad()
    loss.backward()
    truth.step(loss, named(model=model))
    optimizer.step()


def plain(truth: Truth) -> Iterable[Tensor]:
    """Full precision, nothing else."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        truth.step(loss, named(model=model), lr=0.01, skipped=0)
        optimizer.step()
    return model.parameters()


def bfloat16(truth: Truth) -> Iterable[Tensor]:
    """Autocast."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        x, y = batch()
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.mse_loss(model(x).float(), y)
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def float16(truth: Truth, *, clips: bool, overflows: int = 0, fused: bool = False) -> list[Tensor]:
    """GradScaler; perhaps the first steps overflow."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = batch()
        with torch.autocast("cpu", torch.float16):
            loss = functional.mse_loss(model(x).float(), y)
        if step < overflows:
            loss = loss + model.first.weight[0, 0] * torch.tensor(3e37)
        scale = scaler.get_scale()
        scaler.scale(loss).backward()
        skipped = float(SKIP_SCALER) if step < overflows else 0.0
        parameters = named(model=model)
        truth.step(loss, parameters, scale=scale, loss_scale=scale, skipped=skipped)
        if clips:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
    return list(model.parameters())


def accumulation(truth: Truth, *, divides: bool) -> Iterable[Tensor]:
    """Three micro-batches a step."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses = []
        for _ in range(3):
            loss = loss_of(model)
            (loss / 3 if divides else loss).backward()
            losses.append(loss.detach())
        truth.step(torch.stack(losses).mean(), named(model=model))
        optimizer.step()
    return model.parameters()


def clipped(truth: Truth, *, how: str) -> Iterable[Tensor]:
    """Norms are those from before the clipping, at the very first step too."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        truth.step(loss, named(model=model))
        if how == "norm":
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        else:
            nn.utils.clip_grad_value_(model.parameters(), 0.01)
        optimizer.step()
    return model.parameters()


def zeroed_in_place(truth: Truth) -> Iterable[Tensor]:
    """``zero_grad(set_to_none=False)``."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        loss = loss_of(model)
        loss.backward()
        truth.step(loss, named(model=model))
        optimizer.step()
    return model.parameters()


def closure(truth: Truth, *, algorithm: str) -> Iterable[Tensor]:
    """The optimizer asks for loss and gradients by itself: the first answer is the step's."""
    model = Net()
    kind: Any = getattr(torch.optim, algorithm)
    optimizer = kind(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        x, y = batch()
        calls = 0

        def evaluate(x: Tensor = x, y: Tensor = y) -> Tensor:
            nonlocal calls
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            calls += 1
            if calls == 1:
                truth.step(loss, named(model=model))
            return loss

        optimizer.step(evaluate)
    return model.parameters()


def groups_added_later(truth: Truth) -> Iterable[Tensor]:
    """A layer is unfrozen after two steps."""
    model = Net()
    model.first.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.second.parameters(), lr=0.01)
    for step in range(STEPS):
        if step == 2:
            model.first.requires_grad_(True)
            optimizer.add_param_group({"params": list(model.first.parameters()), "lr": 0.001})
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        truth.step(loss, named(model=model) if step >= 2 else named(second=model.second))
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    return model.parameters()


def frozen(truth: Truth) -> Iterable[Tensor]:
    """The optimizer was given all parameters, and half of them are frozen."""
    model = Net()
    model.first.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        loss = loss_of(model)
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


class Adapter(nn.Module):
    """A frozen layer and a trained low-rank one beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(2, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, and the adapter's part."""
        y: Tensor = self.base(x) + x @ self.lora_a.T @ self.lora_b.T
        return y


def adapters(truth: Truth) -> Iterable[Tensor]:
    """Put into a model that is there, and nothing else is trained."""
    model = Net().requires_grad_(False)
    model.first = Adapter(model.first)  # type: ignore[assignment]
    model.second = Adapter(model.second)  # type: ignore[assignment]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(STEPS):
        loss = loss_of(model)
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def sparse(truth: Truth) -> Iterable[Tensor]:
    """An embedding whose gradient has only the rows that were looked up."""
    model = nn.EmbeddingBag(20, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        loss = model(torch.randint(20, (3, 5))).square().mean()
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


class Tied(nn.Module):
    """Embedding and head are one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to logits."""
        y: Tensor = self.head(self.embedding(x))
        return y


def tied(truth: Truth) -> Iterable[Tensor]:
    """Counted once."""
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        x = torch.randint(11, (4, 7))
        loss = functional.cross_entropy(model(x).flatten(0, 1), x.flatten())
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def some_without_gradient(truth: Truth) -> Iterable[Tensor]:
    """Branches that take turns."""
    model = nn.ModuleDict({"even": nn.Linear(5, 1), "odd": nn.Linear(5, 1)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(STEPS):
        x, y = batch()
        loss = functional.mse_loss(model["odd" if step % 2 else "even"](x), y)
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


class Odd(nn.Module):
    """A complex matrix and a 0-d temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = nn.Parameter(torch.randn(5, 3, dtype=torch.complex64))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) to (n, 1)."""
        return (x.to(torch.complex64) @ self.spectrum).abs().sum(1, keepdim=True) * self.temperature


def complex_and_scalar(truth: Truth) -> Iterable[Tensor]:
    """Through a sampled step."""
    model = Odd()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(17):
        loss = loss_of(model)
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def gradient_penalty(truth: Truth) -> Iterable[Tensor]:
    """``torch.autograd.grad`` inside of the loss is no loss, and no step."""
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        x, y = batch()
        x.requires_grad_(True)
        out = model(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        loss = functional.mse_loss(out, y) + 0.1 * (slope.norm(dim=1) - 1).square().mean()
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def recurrent(truth: Truth) -> Iterable[Tensor]:
    """Back-propagation through time in pieces, with a state that is kept."""
    model = nn.LSTM(3, 4, num_layers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = None
    for _ in range(STEPS):
        out, state = model(torch.randn(5, 2, 3), state)
        state = tuple(s.detach() for s in state)
        loss = out.square().mean()
        optimizer.zero_grad()
        loss.backward()
        truth.step(loss, named(model=model))
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    return model.parameters()


def policy_gradient(truth: Truth) -> Iterable[Tensor]:
    """Rollouts without gradients, then epochs over them with several forwards a step."""
    actor, critic = nn.Linear(5, 2), nn.Linear(5, 1)
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        with torch.no_grad():
            seen = torch.randn(16, 5)
            actions = torch.distributions.Categorical(logits=actor(seen)).sample()
            rewards = seen.sum(1) * actions
            values = critic(seen).squeeze(1)
        for _ in range(2):
            policy = torch.distributions.Categorical(logits=actor(seen))
            gain = (policy.log_prob(actions) * (rewards - values)).mean()
            fit = functional.mse_loss(critic(seen).squeeze(1), rewards)
            loss = -gain + 0.5 * fit - 0.01 * policy.entropy().mean()
            ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def moved_after(truth: Truth) -> Iterable[Tensor]:
    """The optimizer is there before the model gets its dtype and place."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.to(torch.float64).to("cpu")
    for _ in range(STEPS):
        x, y = batch()
        loss = functional.mse_loss(model(x.double()), y.double())
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


class Wrapper:
    """An optimizer that torch knows nothing of, around one that it knows."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def zero_grad(self) -> None:
        """As inside."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """As inside."""
        self.optimizer.step()


class Lookahead(torch.optim.Optimizer):
    """One that torch does know, around another, over the same parameters."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base = base
        super().__init__(base.param_groups, {})

    def step(self, closure: Any = None) -> Any:
        """As inside."""
        return self.base.step(closure)


class SignDescent:
    """An optimizer of somebody's own, from the ground up."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.parameters = list(parameters)
        self.lr = lr

    def zero_grad(self) -> None:
        """In place."""
        for p in self.parameters:
            if p.grad is not None:
                p.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Against the sign."""
        for p in self.parameters:
            if p.grad is not None:
                p.sub_(self.lr * p.grad.sign())


def other_optimizer(truth: Truth, *, make: Any) -> Iterable[Tensor]:
    """Whatever has ``zero_grad`` and ``step``."""
    model = Net()
    optimizer = make(model)
    for _ in range(STEPS):
        loss = loss_of(model)
        ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def schedule_free(model: nn.Module) -> Any:
    """Its weights are others while it evaluates."""
    module = pytest.importorskip("schedulefree")
    optimizer = module.AdamWScheduleFree(model.parameters(), lr=0.01)
    optimizer.train()
    return optimizer


def new_each_epoch(truth: Truth) -> Iterable[Tensor]:
    """Scripts that make a new optimizer every epoch go on with the same training."""
    model = Net()
    for _ in range(3):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            loss = loss_of(model)
            ordinary_step(truth, model, optimizer, loss)
    return model.parameters()


def own_gradients(truth: Truth) -> Iterable[Tensor]:
    """Per-sample gradients by ``torch.func``, clipped one by one: there is no ``backward()``."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    parameters = dict(model.named_parameters())

    def loss_of_one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = torch.func.functional_call(model, weights, (x.unsqueeze(0),))
        return functional.mse_loss(out, y.unsqueeze(0))

    each = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0, 0))
    for _ in range(9):
        x, y = batch()
        detached = {name: p.detach() for name, p in parameters.items()}
        for name, grads in each(detached, x, y).items():
            norms = grads.flatten(1).norm(dim=1).clamp(min=1.0)
            shape = (-1, *(1,) * (grads.dim() - 1))
            parameters[name].grad = (grads / norms.view(shape)).mean(0)
        truth.step(None, named(model=model))
        optimizer.step()
    return model.parameters()


ONE_LOSS: dict[str, Script] = {
    "plain": plain,
    "bfloat16": bfloat16,
    "float16": lambda t: float16(t, clips=False),
    "float16, fused": lambda t: float16(t, clips=False, fused=True),
    "float16, clipped": lambda t: float16(t, clips=True),
    "float16, overflows": lambda t: float16(t, clips=True, overflows=2),
    "accumulation": lambda t: accumulation(t, divides=False),
    "accumulation, divided": lambda t: accumulation(t, divides=True),
    "clipped by norm": lambda t: clipped(t, how="norm"),
    "clipped by value": lambda t: clipped(t, how="value"),
    "zeroed in place": zeroed_in_place,
    "closure": lambda t: closure(t, algorithm="AdamW"),
    "closure, LBFGS": lambda t: closure(t, algorithm="LBFGS"),
    "groups added later": groups_added_later,
    "frozen": frozen,
    "adapters": adapters,
    "sparse": sparse,
    "tied": tied,
    "some without gradient": some_without_gradient,
    "complex and 0-d": complex_and_scalar,
    "gradient penalty": gradient_penalty,
    "recurrent": recurrent,
    "policy gradient": policy_gradient,
    "moved after": moved_after,
    "wrapper": lambda t: other_optimizer(
        t, make=lambda m: Wrapper(torch.optim.SGD(m.parameters(), lr=0.01))
    ),
    "lookahead": lambda t: other_optimizer(
        t, make=lambda m: Lookahead(torch.optim.SGD(m.parameters(), lr=0.01))
    ),
    "own optimizer": lambda t: other_optimizer(t, make=lambda m: SignDescent(m.parameters(), 0.01)),
    "schedule-free": lambda t: other_optimizer(t, make=schedule_free),
    "new each epoch": new_each_epoch,
    "own gradients": own_gradients,
}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", ONE_LOSS)
def test_a_loop_is_found_left_alone_and_measured_right(name: str) -> None:
    """Bitwise the same losses and weights; loss, norms and all as the script itself has them."""
    truth, watched = require_unchanged(ONE_LOSS[name])
    require_true(truth, watched)


@pytest.mark.parametrize("name", ["plain", "closure", "closure, LBFGS", "groups added later"])
def test_a_healthy_loop_is_left_alone_under_guard_as_well(name: str) -> None:
    """Bitwise."""
    require_unchanged(ONE_LOSS[name], "guard")


def test_a_loss_that_cannot_be_seen_is_named_once() -> None:
    """``torch.func`` calls no ``backward()``; a loop that does is not told."""
    _, watched = require_unchanged(own_gradients)
    assert watched.events == ["loss_unseen"]
    _, watched = require_unchanged(complex_and_scalar)
    assert watched.events == []


@pytest.mark.usefixtures("no_link")
@pytest.mark.parametrize("fused", [False, True])
def test_an_update_is_vetoed_after_its_closure_has_run(watch: Watch, fused: bool) -> None:
    """Weights and moments stay, the closure runs once, and the next update is made."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    records = Records(watch(model, optimizer, policy="guard"))
    calls = 0

    def evaluate() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = loss_of(model) * (float("nan") if calls == 2 else 1.0)
        loss.backward()
        return loss

    moved = []
    for _ in range(3):
        before = weights_of(model) + [s["exp_avg"].clone() for s in optimizer.state.values()]
        optimizer.step(evaluate)
        after = weights_of(model) + [s["exp_avg"].clone() for s in optimizer.state.values()]
        moved.append(not same(before, after))
    assert moved == [True, False, True]
    assert calls == 3
    assert [bool(code) for code in records.of("skipped")] == [False, True, False]
