"""Capture and restore: bitwise, in place, as often as wanted, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lossguard.probes.tensors import to_host
from lossguard.probes.training_state import TrainingState
from tests.unit.probes.loops import same, weights_of

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw fused amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, fused=True),
    "adam with a tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
}

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 20)],
        milestones=[4],
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
}


class Rich(nn.Module):
    """Parameters, BatchNorm's buffers, a buffer that is not in the state dict, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 1)
        )
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) to (n, 1); the loss depends on the buffer."""
        self.seen += 1
        out: Tensor = self.layers(x) + 0.01 * self.seen
        return out


class Sampler:
    """Has a position, as samplers do."""

    def __init__(self) -> None:
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go there."""
        self.position = state["position"]


class Run:
    """A loop with all that a rollback must bring back."""

    def __init__(self, optimizer: str = "adamw", schedule: str = "lambda") -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = Rich()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.schedule = SCHEDULES[schedule](self.optimizer)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.sampler = Sampler()
        self.sums: dict[str, Tensor] = {"loss": torch.zeros(())}
        self.scale = torch.ones(3)
        self.generator = torch.Generator().manual_seed(4)
        extra = {
            "ema": self.ema,
            "sampler": self.sampler,
            "sums": self.sums,
            "scale": self.scale,
            "data": self.generator,
            "list": [self.scale, 1],
        }
        self.state = TrainingState(self.model, [self.optimizer], (self.schedule,), None, extra)

    def step(self, loss_scale: float = 1.0) -> float:
        """One iteration, on a batch that every generator has a part in."""
        x = torch.randn(8, 4, generator=self.generator)
        x = x + random.random() + float(np.random.rand()) + torch.rand(())
        loss = torch.zeros(())

        def closure() -> Tensor:
            nonlocal loss
            self.optimizer.zero_grad()
            wrong: Tensor = self.model(x) - x.sum(1, keepdim=True)
            loss = wrong.square().mean() * loss_scale
            loss.backward()
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()
        value = float(loss.detach())
        if isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(value)
        else:
            self.schedule.step()
        self.ema.update_parameters(self.model)
        self.sampler.position += 1
        self.sums["loss"] += value
        self.scale *= 1.01
        return value

    def everything(self) -> Any:
        """All that is restored, as a copy."""
        return to_host(
            [
                weights_of(self.model),
                self.optimizer.state_dict(),
                self.schedule.state_dict(),
                self.ema.state_dict(),
                self.sampler.position,
                dict(self.sums),
                self.scale,
            ]
        )


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((name, "lambda") for name in OPTIMIZERS), *(("adamw", name) for name in SCHEDULES)],
)
def test_restoring_is_exact_as_often_as_one_likes(optimizer: str, schedule: str) -> None:
    """The state is bitwise the one captured, and the same steps give the same losses, twice."""
    run = Run(optimizer, schedule)
    for _ in range(3):
        run.step()
    kept = run.state.capture()
    then = run.everything()
    places = [p.data_ptr() for p in run.model.parameters()]
    ahead = [run.step() for _ in range(4)]
    for _ in range(2):
        run.step(loss_scale=1e6)
        run.state.restore(kept, random_generators=True)
        assert same(run.everything(), then)
        assert [p.data_ptr() for p in run.model.parameters()] == places
        assert [run.step() for _ in range(4)] == ahead


def test_the_snapshot_shares_nothing_with_the_run() -> None:
    """Neither after the capture nor after a restore does training write into it."""
    run = Run()
    run.step()
    kept = run.state.capture()
    copy = to_host(kept)
    for _ in range(2):
        run.step()
        run.state.restore(kept, random_generators=True)
    run.step()
    assert same(kept["model"], copy["model"])
    assert same(kept["optimizers"], copy["optimizers"])
    assert same(kept["extra"], copy["extra"])


def test_tensors_keep_their_identity() -> None:
    """Parameters, buffers, moments and the user's own tensors are written, not replaced."""
    run = Run()
    for _ in range(2):
        run.step()
    kept = run.state.capture()
    state = run.optimizer.state
    before = [
        *run.model.parameters(),
        *run.model.buffers(),
        *(value for slots in state.values() for value in slots.values()),
        run.scale,
        run.sums["loss"],
    ]
    run.step()
    run.state.restore(kept, random_generators=False)
    after = [
        *run.model.parameters(),
        *run.model.buffers(),
        *(value for slots in state.values() for value in slots.values()),
        run.scale,
        run.sums["loss"],
    ]
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_without_the_generators_the_data_goes_on() -> None:
    """The weights are those of then, the next batch is another one."""
    run = Run()
    run.step()
    kept = run.state.capture()
    state = torch.get_rng_state()
    run.step()
    now = torch.get_rng_state()
    run.state.restore(kept, random_generators=False)
    assert torch.equal(torch.get_rng_state(), now)
    assert not torch.equal(now, state)


def _shape(run: Run) -> None:
    run.model.layers[0] = nn.Linear(4, 9)


def _dtype(run: Run) -> None:
    run.model.bfloat16()


def _buffer(run: Run) -> None:
    run.model.register_buffer("new", torch.ones(2))


def _group(run: Run) -> None:
    run.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


def _extra(run: Run) -> None:
    run.scale.resize_(4)


@pytest.mark.parametrize("change", [_shape, _dtype, _buffer, _group, _extra])
def test_what_no_longer_fits_is_refused_and_nothing_is_touched(
    change: Callable[[Run], None],
) -> None:
    """Another layer, precision, buffer, group or extra: all or nothing."""
    run = Run()
    run.step()
    kept = run.state.capture()
    run.step()
    change(run)
    before = run.everything()
    numbers = torch.get_rng_state()
    with pytest.raises(ValueError, match="since the snapshot"):
        run.state.restore(kept, random_generators=True)
    assert same(run.everything(), before)
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_state_that_appeared_later_is_removed(name: str) -> None:
    """A snapshot from before the first step has no moments; so has the run after it."""
    run = Run(name)
    kept = run.state.capture()
    ahead = [run.step() for _ in range(2)]
    run.state.restore(kept, random_generators=True)
    assert not any(run.optimizer.state.get(p) for p in run.model.parameters())
    assert [run.step() for _ in range(2)] == ahead


def test_state_that_has_gone_comes_back() -> None:
    """A script that cleared its moments gets those of then."""
    run = Run()
    run.step()
    kept = run.state.capture()
    then = run.everything()
    run.optimizer.state.clear()
    run.state.restore(kept, random_generators=True)
    assert same(run.everything(), then)


@pytest.mark.parametrize("used", [False, True])
def test_grad_scaler_goes_back_too(used: bool) -> None:
    """Its scale and its growth, also to what they were before its first use."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)

    def step() -> None:
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    state = TrainingState(None, [optimizer], scaler=scaler)
    if used:
        step()
    kept = state.capture()
    before = scaler.state_dict()
    for _ in range(4):
        step()
    assert scaler.get_scale() > 64
    state.restore(kept, random_generators=False)
    assert scaler.state_dict() == before


def test_without_a_model_the_optimizers_parameters_are_kept() -> None:
    """And those a model does not own, next to the model's."""
    alone = nn.Parameter(torch.ones(2))
    model = nn.Linear(2, 1)
    for owner in (None, model):
        optimizer = torch.optim.SGD([alone, *model.parameters()], lr=0.1)
        state = TrainingState(owner, [optimizer])
        kept = state.capture()
        then = [alone.detach().clone(), *weights_of(model)]
        with torch.no_grad():
            for p in (alone, *model.parameters()):
                p.add_(1)
        state.restore(kept, random_generators=False)
        assert same([alone.detach(), *weights_of(model)], then)


def test_containers_of_a_type_of_their_own_are_copied() -> None:
    """A named tuple of tensors in an optimizer's state must not stay an alias."""
    from typing import NamedTuple

    class Pair(NamedTuple):
        a: Tensor

    live = Pair(torch.ones(2))
    kept = to_host({"pair": live})
    live.a.zero_()
    assert torch.equal(kept["pair"].a, torch.ones(2))


def test_live_bytes_are_those_of_weights_and_moments() -> None:
    """Known before anything is copied."""
    weight = nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(1000)
    optimizer.step()
    assert TrainingState(None, [optimizer]).live_bytes() == 8000


def test_what_the_script_wrote_is_asked_for_its_state_once_a_snapshot() -> None:
    """It may cost, draw, or count."""

    class Average:
        asked = 0

        def state_dict(self) -> dict[str, Tensor]:
            self.asked += 1
            return {"w": torch.ones(2)}

    average = Average()
    model = nn.Linear(2, 1)
    state = TrainingState(model, [torch.optim.SGD(model.parameters())], extra={"ema": average})
    assert torch.equal(state.capture()["extra"]["ema"]["w"], torch.ones(2))
    assert average.asked == 1


def test_a_snapshot_is_taken_where_nobody_can_say_how_it_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is for as many ranks as there are now."""

    def place(self: Any, tensors: Any, extra: Any) -> Any:
        raise NotImplementedError("a cut of a new kind")

    monkeypatch.setattr(TrainingState, "_places", place)
    model = nn.Linear(2, 1)
    kept = TrainingState(model, [torch.optim.SGD(model.parameters())]).capture()
    assert "a cut of a new kind" in kept["places"]
    assert torch.equal(kept["model"]["weight"], model.weight)
