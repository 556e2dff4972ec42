"""Loops without an optimizer object, and attaching to a model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from lossguard.probes import finder
from tests.unit.probes.loops import Records, Watch, loop_of
from tests.unit.probes.test_one_loss import STEPS, Net, SignDescent, loss_of
from tests.unit.probes.test_several_optimizers import gan
from tests.unit.probes.training import (
    Script,
    Truth,
    named,
    require_true,
    require_unchanged,
    run,
    watching,
)

Update = Callable[[nn.Module], None]


def by_data(model: nn.Module) -> None:
    """As in old tutorials: torch counts no write of these."""
    for p in model.parameters():
        assert p.grad is not None
        p.data.add_(p.grad.data, alpha=-0.01)
        p.grad.data.zero_()


@torch.no_grad()
def in_place(model: nn.Module) -> None:
    """Gradients are thrown away."""
    for p in model.parameters():
        assert p.grad is not None
        p -= 0.01 * p.grad  # type: ignore[misc]
        p.grad = None


@torch.no_grad()
def zeroing(model: nn.Module) -> None:
    """Gradients are filled with zeros."""
    for p in model.parameters():
        assert p.grad is not None
        p.sub_(p.grad, alpha=0.01)
        p.grad.zero_()


def by_hand(truth: Truth, *, update: Update, micro: int = 1, clips: bool = False) -> list[Tensor]:
    """One or several micro-batches, then the update."""
    model = Net()
    for _ in range(STEPS):
        losses = []
        for _ in range(micro):
            loss = loss_of(model)
            loss.backward()
            losses.append(loss.detach())
        truth.step(torch.stack(losses).mean(), named(model=model))
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        update(model)
    return list(model.parameters())


BY_HAND: dict[str, Script] = {
    "by data": lambda t: by_hand(t, update=by_data),
    "in place": lambda t: by_hand(t, update=in_place),
    "zeroing": lambda t: by_hand(t, update=zeroing),
    "micro-batches": lambda t: by_hand(t, update=zeroing, micro=3),
    "micro-batches by data": lambda t: by_hand(t, update=by_data, micro=2),
    "clipped": lambda t: by_hand(t, update=zeroing, clips=True),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_steps_are_counted_by_what_becomes_of_the_gradients(name: str) -> None:
    """All of them, from the first on, with losses and norms; the last one when the run ends."""
    truth, watched = require_unchanged(BY_HAND[name])
    require_true(truth, watched)


def test_what_cannot_be_vetoed_is_not_guarded_and_that_is_said_once() -> None:
    """There is no step of an optimizer to stand in front of."""
    *_, watched = run(BY_HAND["in place"], "guard")
    assert watched.events == ["only_observing"]


def test_gradients_that_are_only_looked_at_are_no_training() -> None:
    """Saliency maps, adversarial examples: parameters stay as they are, and there is no run."""

    def saliency(truth: Truth) -> Iterable[Tensor]:
        model = Net()
        for _ in range(STEPS):
            x = torch.randn(2, 5, requires_grad=True)
            model(x).sum().backward()
            assert x.grad is not None
            x.grad.sign_()
        return model.parameters()

    *_, watched = run(saliency, "observe")
    assert watched.runs == {}


def test_a_script_that_nobody_could_follow_is_told_so_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """New tensors in the place of the old, every step: there is nothing to hold on to."""

    def functional(truth: Truth) -> Iterable[Tensor]:
        weight = torch.randn(5, requires_grad=True)
        for _ in range(20):
            (weight * torch.randn(5)).sum().square().backward()
            assert weight.grad is not None
            weight = (weight - 0.01 * weight.grad).detach().requires_grad_()
        return [weight]

    with watching() as watched:
        list(functional(Truth()))
        finders = [one for one in finder._finders if one.num_backwards == 20]
        for one in finders:
            one.say_what_was_not_found()
    assert len(finders) == 1
    assert watched.runs == {}
    assert "nothing was watched: backward() ran 20 times" in caplog.text


# --- attach(model) ---------------------------------------------------------------------------


def steps(
    watch: Watch, make: Callable[[nn.Module], object], *, n: int = 3
) -> tuple[Truth, Records]:
    """Attached to the model alone; ``make`` gives what has ``zero_grad`` and ``step``."""
    model, truth = Net(), Truth()
    guard = watch(model, None)
    records = Records(guard)
    optimizer = make(model)
    for _ in range(n):
        loss = loss_of(model)
        optimizer.zero_grad()  # type: ignore[attr-defined]
        loss.backward()
        truth.step(loss, named(model=model))
        optimizer.step()  # type: ignore[attr-defined]
    guard.close()
    return truth, records


@pytest.mark.usefixtures("no_link")
@pytest.mark.parametrize("kind", ["torch", "own"])
def test_to_a_model_alone_whatever_updates_it_is_found(watch: Watch, kind: str) -> None:
    """An optimizer that comes later, or one that torch knows nothing of."""

    def make(model: nn.Module) -> object:
        if kind == "torch":
            return torch.optim.AdamW(model.parameters(), lr=0.01)
        return SignDescent(model.parameters(), lr=0.01)

    truth, records = steps(watch, make)
    assert records.of("loss") == [step["loss"] for step in truth.runs[""]]
    norms = [step["grad_norm"] for step in truth.runs[""]]
    assert records.of("grad_norm") == pytest.approx(norms, rel=1e-5)


@pytest.mark.usefixtures("no_link")
def test_several_optimizers_may_be_given(watch: Watch) -> None:
    """And guarded: a veto holds for all of them."""
    model = Net()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model.first, model.second)]
    guard = watch(model, optimizers, policy="guard")
    loop = loop_of(guard)
    records = Records(guard)
    assert loop._hello.policy == "guard"
    for step in range(4):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = loss_of(model) * (float("nan") if step == 2 else 1.0)
        loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        for optimizer in optimizers:
            optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert moved == [step != 2] * 4
        assert all(p.grad is not None for p in model.parameters())
    assert guard.step == 4
    assert [bool(code) for code in records.of("skipped")] == [False, False, True, False]


@pytest.mark.usefixtures("no_link")
def test_a_rollback_brings_all_optimizers_back(watch: Watch) -> None:
    """Momentum of both, and the rates of both."""
    model = Net()
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model.first, model.second)
    ]
    loop = loop_of(watch(model, optimizers, policy="guard"))
    states = []
    for _ in range(4):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
        state = [p.detach().clone() for p in model.parameters()]
        state += [s["momentum_buffer"].clone() for o in optimizers for s in o.state.values()]
        states.append(state)
        loop.take_snapshot_now()
    ring = loop._acting._ring
    snapshot = ring.newest_before(2)
    assert snapshot is not None
    assert snapshot.step == 2
    ring.restore(snapshot, random_generators=False)
    now = [p.detach() for p in model.parameters()]
    now += [s["momentum_buffer"] for o in optimizers for s in o.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(states[1], now, strict=True))


def test_a_critic_at_guard_still_drops_what_is_not_finite() -> None:
    """Of two losses in turn each update is judged by its own."""
    truth, watched = require_unchanged(gan, "guard")
    assert all(step["skipped"] == 0 for steps in watched.runs.values() for step in steps)
    require_true(truth, watched)
