"""The zoom names the first module to blame, and leaves everything as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossguard.probes import wire
from lossguard.probes.held import Gone, HeldForwards
from lossguard.probes.outbox import Measured
from lossguard.probes.purity import looks_pure
from lossguard.probes.untouched import WouldChange, untouched
from lossguard.probes.zoomed import Zoomed
from tests.unit.probes.loops import Watch, loop_of, same

pytestmark = pytest.mark.usefixtures("no_link")


class Exponential(nn.Module):
    """Overflows where its input is large."""

    def forward(self, x: Tensor) -> Tensor:
        """Of each element."""
        return torch.exp(x)


class Model(nn.Module):
    """Two blocks with all that a forward may change: dropout, batch norm, an attribute, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)) for _ in range(2)
        )
        self.act = Exponential()
        self.head = nn.Linear(4, 1)
        self.calls = 0
        self.seen: list[int] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """(n, 4) to (n, 1)."""
        self.calls += 1
        self.seen.append(len(x))
        for block in self.blocks:
            x = x + block(x)
        self.last = x
        out: Tensor = self.head(self.act(x * scale))
        return out


class Told:
    """What a loop says, and what it would send."""

    def __init__(self, watch: Watch, model: nn.Module, policy: str = "guard", **more: Any) -> None:
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.guard = watch(model, self.optimizer, policy=policy, **more)
        self.events: list[wire.Event] = []
        self.steps: list[Measured] = []
        outbox = loop_of(self.guard)._outbox
        outbox.say = self._say  # type: ignore[method-assign]
        outbox.put = self._put  # type: ignore[method-assign]

    def _say(self, message: wire.Message) -> None:
        assert isinstance(message, wire.Event)
        if "zoom" in message.kind:
            self.events.append(message)

    def _put(self, item: Any) -> None:
        if isinstance(item, Zoomed):
            self.events.append(item.told())
        elif isinstance(item, Measured):
            self.steps.append(item)

    def kinds(self) -> list[str]:
        """Of the events."""
        assert not loop_of(self.guard)._shield._off
        return [event.kind for event in self.events]

    def step(self, loss: Tensor) -> None:
        """Backward and update."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def step_of(told: Told, model: nn.Module, scale: float = 1.0) -> None:
    """One step with a batch of its own."""
    told.step(model(torch.randn(8, 4), scale).square().mean())


def test_it_names_the_module_and_what_it_was_given(watch: Watch) -> None:
    """The exponential is to blame, not the head after it; its input was finite and large."""
    model = Model()
    told = Told(watch, model)
    step_of(told, model)
    assert told.kinds() == []
    step_of(told, model, scale=1e4)
    (event,) = told.events
    assert event.kind == "zoom"
    assert event.step == 2
    assert event.data["where"] == "act"
    assert event.data["kind"] == "Exponential"
    assert event.data["input_is_finite"] == event.data["weights_are_finite"] == 1
    assert 1e3 < float(event.data["input_absmax"]) < 1e8
    assert event.message.startswith("first bad: act (Exponential), its input is finite, absmax ")


def test_it_tells_a_bad_batch_and_bad_weights_from_a_bad_module(watch: Watch) -> None:
    """What is not finite before a module is not the module's fault."""
    model = Model()
    told = Told(watch, model)
    step_of(told, model)
    told.step(model(torch.full((8, 4), torch.nan)).mean())
    assert told.events[-1].data["where"] == "blocks.0.0"
    assert told.events[-1].data["input_is_finite"] == 0

    hurt = Model()
    told = Told(watch, hurt)
    with torch.no_grad():
        hurt.head.weight.fill_(torch.inf)
    step_of(told, hurt)
    assert told.events[-1].data["where"] == "head"
    assert told.events[-1].data["weights_are_finite"] == 0


def test_it_says_so_where_no_module_is_to_blame(watch: Watch) -> None:
    """A loss of a finite output; a gradient of a finite loss."""
    model = nn.Sequential(nn.Linear(4, 1))
    told = Told(watch, model)
    told.step((model(torch.ones(8, 4)) * 0.0 - 1.0).log().mean())
    assert "it is the loss function" in told.events[-1].message
    assert "where" not in told.events[-1].data

    model = nn.Sequential(nn.Linear(4, 1))
    told = Told(watch, model)
    told.step((model(torch.ones(8, 4)) * 0.0).sqrt().mean())
    assert "in the backward pass" in told.events[-1].message


def test_one_zoom_an_incident(watch: Watch) -> None:
    """A hundred bad steps in a row are looked at once."""
    model = Model()
    told = Told(watch, model)
    for _ in range(100):
        step_of(told, model, scale=1e4)
    assert told.kinds() == ["zoom"]
    assert model.calls == 100


def test_a_loss_scale_that_overflows_is_no_reason(watch: Watch) -> None:
    """GradScaler's search for a scale: the gradient is infinite, the loss is not."""
    model = Model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    told = Told(watch, model, scaler=scaler)
    loss = model(torch.randn(8, 4)).square().mean() * 1e4
    scaler.scale(loss).backward()
    scaler.step(told.optimizer)
    scaler.update()
    assert told.kinds() == []


def everything(model: Model) -> list[Any]:
    """All that a forward of it could change."""
    state = [t.clone() for t in (*model.parameters(), *model.buffers())]
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    numpy_state = np.random.get_state(legacy=False)
    memory = [t.data_ptr() for t in (*model.parameters(), *model.buffers())]
    return [
        state, versions, memory, model.calls, list(model.seen), id(model.last), model.training,
        torch.get_rng_state(), random.getstate(), numpy_state["state"]["key"].tolist(),
        [p.grad is None for p in model.parameters()], torch.is_grad_enabled(),
    ]  # fmt: skip


def test_nothing_is_changed_by_it() -> None:
    """Bit for bit: weights, running statistics, generators, attributes, lists."""
    model = Model()
    x = torch.randn(8, 4)
    before = everything(model)
    with untouched(model):
        model(x)
        random.random()
        np.random.rand()
    assert same(everything(model), before)
    model(x)
    assert not same(everything(model), before), "a forward of its own does change all that"


def test_nothing_is_changed_where_the_forward_raises() -> None:
    """Not a bit, and the failure comes through."""
    model = Model()
    before = everything(model)
    with pytest.raises(RuntimeError), untouched(model):
        model(torch.randn(8, 5))
    assert same(everything(model), before)


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t.add_(1.0),
        lambda t: t.view(-1)[:2].zero_(),
        lambda t: t.__setitem__(0, 5.0),
        lambda t: torch.mul(t, 2.0, out=t),
        lambda t: torch._foreach_add_([t], 1.0),
        lambda t: t.detach().copy_(torch.zeros(4)),
    ],
)
def test_what_was_there_before_cannot_be_written_to(write: Callable[[Tensor], Any]) -> None:
    """Weights, inputs, whatever: the operation does not happen. What is new can be."""
    model, kept = nn.Linear(4, 4), torch.arange(4.0)
    with pytest.raises(WouldChange), untouched(model):
        write(kept)
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0]
    with untouched(model):
        new = kept.clone()
        write(new)
        write(kept + 1.0)


def test_the_same_numbers_come_after_a_zoom_as_without_one(watch: Watch) -> None:
    """Twins with dropout and batch norm: one is looked at in the middle, one is not watched."""
    losses: list[list[float]] = []
    for watched in (True, False):
        torch.manual_seed(3)
        model = Model()
        told = Told(watch, model, policy="guard") if watched else None
        optimizer = told.optimizer if told else torch.optim.SGD(model.parameters(), lr=0.01)
        mine: list[float] = []
        for i in range(6):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4), 1e4 if i == 2 else 1.0).square().mean()
            loss.backward()
            if i != 2 or watched:  # the veto drops it: the twin does so by hand
                optimizer.step()
            mine.append(float(loss.detach()))
        losses.append(mine)
        if told is not None:
            assert told.kinds() == ["zoom"]
    assert losses[0][3:] == losses[1][3:]


class Pure(nn.Module):
    """Nothing but tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.act = Exponential()

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """With a method of its own."""
        return self._inner(x) * scale

    def _inner(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.first(x) * 1e4)
        return out


def test_observe_zooms_only_where_the_code_shows_that_nothing_else_changes(watch: Watch) -> None:
    """Of a model that counts its calls the forward is not repeated, and it is said why."""
    assert looks_pure(Pure())
    assert not looks_pure(Model())
    pure, counting = Pure(), Model()
    told = Told(watch, pure, policy="observe")
    step_of(told, pure)
    assert told.kinds() == ["zoom"]
    assert told.events[-1].data["where"] == "act"
    told = Told(watch, counting, policy="observe")
    step_of(told, counting, scale=1e4)
    assert told.kinds() == ["not_zoomed"]
    assert counting.calls == 1


def test_a_model_with_hooks_of_the_script_is_left_alone(watch: Watch) -> None:
    """Nobody knows what they do."""
    model = Model()
    called: list[int] = []
    model.head.register_forward_hook(lambda m, a, out: called.append(1))
    told = Told(watch, model)
    step_of(told, model, scale=1e4)
    assert told.kinds() == ["not_zoomed"]
    assert "hooks of the script's own" in told.events[-1].message
    assert called == [1]


def test_a_compiled_model_is_left_alone(watch: Watch) -> None:
    """Its graph is not run once more."""
    model = Model()
    compiled = torch.compile(model, backend="eager")
    told = Told(watch, model)
    for scale in (1.0, 1.0, 1.0, 1e4):
        told.step(compiled(torch.randn(8, 4), scale).square().mean())
    assert set(told.kinds()) <= {"not_zoomed"}


def test_the_inputs_are_not_kept_alive() -> None:
    """Small ones till the step is judged, large ones not at all; what was written to is gone."""
    held = HeldForwards(torch.device("cpu"))
    large = torch.zeros(1 << 21)
    held.hold((large, [torch.ones(2)]), {"mask": None})
    (forward,) = held.take()
    args, kwargs = forward.inputs()
    assert args[0] is large
    assert args[1][0].tolist() == [1.0, 1.0]
    assert kwargs == {"mask": None}
    del args, large
    with pytest.raises(Gone):
        forward.inputs()

    small = torch.zeros(3)
    held.hold((small,), {})
    small.add_(1.0)
    with pytest.raises(Gone):
        held.take()[0].inputs()
    held.hold((object(),), {})
    with pytest.raises(Gone):
        held.take()[0].inputs()
    for _ in range(100):
        held.hold((torch.zeros(3),), {})
    assert len(held.take()) == 8
