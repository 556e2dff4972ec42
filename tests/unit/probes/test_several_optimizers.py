"""Several optimizers and several models: one run for each loss, and never two losses in one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lossguard.probes import heard_before
from tests.unit.probes.test_one_loss import STEPS, Net, batch, loss_of
from tests.unit.probes.training import (
    Script,
    Truth,
    named,
    require_true,
    require_unchanged,
    run,
)


def split(truth: Truth, *, clips: str = "", scales: bool = False) -> Iterable[Tensor]:
    """Matrices to one optimizer, vectors to the other, as with Muon beside AdamW."""
    model = Net()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizers = [
        torch.optim.SGD(matrices, lr=0.02, momentum=0.9),
        torch.optim.AdamW(vectors, lr=0.001),
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, enabled=scales)
    for _ in range(STEPS):
        loss = loss_of(model)
        for optimizer in optimizers:
            optimizer.zero_grad()
        scaler.scale(loss).backward()
        truth.step(loss, named(model=model), scale=scaler.get_scale(), lr=0.02)
        if clips == "all":
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        for optimizer, its in zip(optimizers, (matrices, vectors), strict=True):
            if clips == "each":
                nn.utils.clip_grad_norm_(its, 0.01)
            scaler.step(optimizer)
        scaler.update()
    return model.parameters()


def two_models(truth: Truth) -> Iterable[Tensor]:
    """An encoder and a decoder, an optimizer each, one loss."""
    encoder, decoder = nn.Linear(5, 3), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    one = torch.optim.AdamW(encoder.parameters(), lr=0.01)
    other = torch.optim.SGD(decoder.parameters(), lr=0.01)
    for _ in range(STEPS):
        x, y = batch()
        loss = functional.mse_loss(decoder(encoder(x)), y)
        one.zero_grad()
        other.zero_grad()
        loss.backward()
        truth.step(loss, named(model=decoder, Linear=encoder))
        one.step()
        other.step()
    return [*encoder.parameters(), *decoder.parameters()]


def one_optimizer_of_two_models(truth: Truth) -> Iterable[Tensor]:
    """``Adam([*encoder.parameters(), *decoder.parameters()])``."""
    encoder, decoder = nn.Linear(5, 3), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.01)
    for _ in range(STEPS):
        x, y = batch()
        loss = functional.mse_loss(decoder(encoder(x)), y)
        optimizer.zero_grad()
        loss.backward()
        truth.step(loss, named(model=decoder, Linear=encoder))
        optimizer.step()
    return [*encoder.parameters(), *decoder.parameters()]


def unfrozen_with_an_optimizer_of_its_own(truth: Truth) -> Iterable[Tensor]:
    """After a while another optimizer steps as well, on the same loss."""
    model = Net()
    model.first.requires_grad_(False)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(model.second.parameters(), lr=0.1)]
    for step in range(24):
        if step == 20:
            model.first.requires_grad_(True)
            optimizers.append(torch.optim.SGD(model.first.parameters(), lr=0.01))
        loss = loss_of(model)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        # When the other one steps, what belongs to the step has been measured and sent.
        both = named(model=model) if step > 20 else named(second=model.second)
        truth.step(loss, both)
        for optimizer in optimizers:
            optimizer.step()
    return model.parameters()


class Generator(nn.Module):
    """Noise to samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5))

    def forward(self, z: Tensor) -> Tensor:
        """(n, 3) to (n, 5)."""
        x: Tensor = self.layers(z)
        return x


class Critic(nn.Module):
    """Samples to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) to (n, 1)."""
        logits: Tensor = self.layers(x)
        return logits


def gan(
    truth: Truth, *, critic_steps: int = 1, in_place: bool = False, steps: int = STEPS
) -> Iterable[Tensor]:
    """The generator's loss goes through the critic; its gradients there are thrown away."""
    generator, critic = Generator(), Critic()
    of_critic = torch.optim.Adam(critic.parameters(), lr=0.01)
    of_generator = torch.optim.Adam(generator.parameters(), lr=0.02)
    for _ in range(steps):
        for _ in range(critic_steps):
            of_critic.zero_grad(set_to_none=not in_place)
            real, fake = torch.randn(6, 5), generator(torch.randn(6, 3)).detach()
            loss = (
                functional.softplus(-critic(real)).mean() + functional.softplus(critic(fake)).mean()
            )
            loss.backward()
            truth.step(loss, named(model=critic), run="", lr=0.01)
            of_critic.step()
        of_generator.zero_grad(set_to_none=not in_place)
        loss = functional.softplus(-critic(generator(torch.randn(6, 3)))).mean()
        loss.backward()
        truth.step(loss, named(model=generator), run="2-Generator", lr=0.02)
        of_generator.step()
    return [*generator.parameters(), *critic.parameters()]


def actor_critic(truth: Truth) -> Iterable[Tensor]:
    """Both losses go backward before either optimizer steps."""
    actor, critic = nn.Sequential(nn.Linear(5, 2)), Critic()
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (actor, critic)]
    for _ in range(STEPS):
        x, y = batch()
        policy = torch.distributions.Categorical(logits=actor(x))
        value = critic(x)
        action = policy.sample()
        gain = -(policy.log_prob(action) * (y - value).detach().squeeze(1)).mean()
        fit = functional.mse_loss(value, y)
        for optimizer in optimizers:
            optimizer.zero_grad()
        gain.backward()
        fit.backward()
        truth.step(gain, named(model=actor), run="")
        truth.step(fit, named(model=critic), run="2-Critic")
        for optimizer in optimizers:
            optimizer.step()
    return [*actor.parameters(), *critic.parameters()]


def folds(truth: Truth) -> Iterable[Tensor]:
    """A new model, and with it a new run, for every fold."""
    weights: list[Tensor] = []
    for fold in range(3):
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            loss = loss_of(model)
            optimizer.zero_grad()
            loss.backward()
            truth.step(loss, named(model=model), run=f"{fold + 1}-Net" if fold else "")
            optimizer.step()
        weights += list(model.parameters())
    return weights


TOGETHER: dict[str, Script] = {
    "split": split,
    "split, clipped": lambda t: split(t, clips="all"),
    "split, clipped one by one": lambda t: split(t, clips="each"),
    "split, scaled": lambda t: split(t, scales=True),
    "two models": two_models,
    "one optimizer of two models": one_optimizer_of_two_models,
    "unfrozen": unfrozen_with_an_optimizer_of_its_own,
}
APART: dict[str, Script] = {
    "gan": gan,
    "gan, several critic steps": lambda t: gan(t, critic_steps=3),
    "gan, zeroed in place": lambda t: gan(t, in_place=True),
    "actor and critic": actor_critic,
    "folds": folds,
}


@pytest.mark.parametrize("name", TOGETHER)
def test_optimizers_that_step_on_one_loss_are_one_run(name: str) -> None:
    """One step an iteration, the norm over all of them."""
    truth, watched = require_unchanged(TOGETHER[name])
    require_true(truth, watched)


@pytest.mark.parametrize("name", APART)
def test_every_loss_has_a_run_of_its_own(name: str) -> None:
    """No run sees a loss, a gradient or a step of another."""
    truth, watched = require_unchanged(APART[name])
    require_true(truth, watched)


@pytest.mark.parametrize("name", ["split, scaled", "two models", "gan", "actor and critic"])
def test_guarding_a_healthy_training_changes_nothing(name: str) -> None:
    """Bitwise."""
    require_unchanged((TOGETHER | APART)[name], "guard")


@pytest.mark.slow
def test_losses_in_turn_are_not_turned_back_and_that_is_said_once_a_run() -> None:
    """Half of a GAN at step 7 and half at step 3 was never there; vetoes stay. Folds, which follow
    each other, keep their rollbacks."""
    *_, watched = run(gan, "guard")
    assert watched.events == ["only_vetoing", "only_vetoing"]
    *_, watched = run(folds, "guard")
    assert watched.events == []


@pytest.mark.slow
def test_inner_loops_by_the_hundred_are_not_a_run_each() -> None:
    """Meta-learning: a copy and an optimizer for each task. The outer one is watched."""

    def meta(truth: Truth) -> Iterable[Tensor]:
        outer = Net()
        optimizer = torch.optim.SGD(outer.parameters(), lr=0.01)
        for _ in range(30):
            inner = copy.deepcopy(outer)
            adapting = torch.optim.SGD(inner.parameters(), lr=0.1)
            for _ in range(2):
                adapting.zero_grad()
                loss_of(inner).backward()
                adapting.step()
            optimizer.zero_grad()
            inner.zero_grad()
            loss_of(inner).backward()
            for p, q in zip(outer.parameters(), inner.parameters(), strict=True):
                p.grad = None if q.grad is None else q.grad.clone()
            truth.step(None, named(model=outer))
            optimizer.step()
        return outer.parameters()

    truth, watched = require_unchanged(meta)
    assert len(watched.runs) <= 6
    norms = [step["grad_norm"] for step in truth.runs[""]]
    seen = max(([s.get("grad_norm") for s in steps] for steps in watched.runs.values()), key=len)
    assert len(seen) > 20
    assert seen == pytest.approx(norms[-len(seen) :], rel=1e-5)


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    """The same, and every call is noted."""

    def call(*args: Any) -> Any:
        calls.append(1)
        return function(*args)

    return call


def test_what_is_known_is_not_looked_at_again() -> None:
    """After the first few steps the search adds no operation and walks no graph."""
    walked: list[int] = []
    patch = pytest.MonkeyPatch()
    for name in ("leaves_of", "root_of"):
        patch.setattr(heard_before, name, counted(getattr(heard_before, name), walked))
    try:
        run(lambda t: gan(t, steps=8), "observe")
        few = len(walked)
        walked.clear()
        run(lambda t: gan(t, steps=40), "observe")
    finally:
        patch.undo()
    assert 0 < few <= len(walked) <= 24
