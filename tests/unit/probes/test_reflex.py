"""The veto: a bad update leaves no trace, in any optimizer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossguard.probes import wire
from lossguard.probes.reflex import Reflex, takes_found_inf
from tests.unit.probes.loops import Records, Watch, loop_of, same

pytestmark = pytest.mark.usefixtures("no_link")

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class CountsInItsGroup(torch.optim.Optimizer):
    """Counts steps in the group, as Prodigy and schedule-free optimizers do."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.1, "k": 0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step as long as 1 / k."""
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-group["lr"] / group["k"])


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "sgd fused momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "adamw fused amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "counts in its group": CountsInItsGroup,
}
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["muon"] = lambda p: torch.optim.Muon(p, lr=0.1)

GOOD, BOUND = 0.5, 1e3


def parameters() -> list[nn.Parameter]:
    """Three matrices (Muon takes nothing else), the same ones at every call."""
    torch.manual_seed(3)
    return [nn.Parameter(torch.randn(4, 3)) for _ in range(3)]


def give_gradients(params: list[nn.Parameter], seed: int, spoil: str = "") -> None:
    """The gradients of step ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    last = params[-1].grad
    assert last is not None
    if spoil == "nan":
        last[0, 0] = math.nan
    elif spoil == "inf":
        last[0, 0] = -math.inf
    elif spoil == "huge":
        last.mul_(1e6)


def norm_of(params: list[nn.Parameter]) -> Tensor:
    """The norm of all gradients."""
    return nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])


def everything(params: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Any:
    """Weights, state and the settings of the groups, as a copy."""
    state = optimizer.state_dict()
    return copy.deepcopy(([p.detach() for p in params], state["state"], state["param_groups"]))


def guarded_step(reflex: Reflex, optimizer: torch.optim.Optimizer, loss: float) -> float:
    """One step as the loop does it; the code."""
    params = optimizer.param_groups[0]["params"]
    code = reflex.close_gate(reflex.verdict(norm_of(params), torch.tensor(loss)), False)
    optimizer.step()
    reflex.open_gate()
    assert code is not None
    return float(code)


SPOILED = {
    "nan": (wire.SKIP_NONFINITE, GOOD),
    "inf": (wire.SKIP_NONFINITE + wire.SKIP_GRAD_NORM, GOOD),
    "huge": (wire.SKIP_GRAD_NORM, GOOD),
    "loss": (wire.SKIP_LOSS, 7.0),
    "nan loss": (wire.SKIP_NONFINITE, math.nan),
}


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_vetoed_update_leaves_everything_bitwise_as_it_was(name: str, spoil: str) -> None:
    """Weights, moments, step counters and gradients are the same; so is the next good step."""
    code, loss = SPOILED[spoil]
    params, twins = parameters(), parameters()
    optimizer, twin = OPTIMIZERS[name](params), OPTIMIZERS[name](twins)
    reflex = Reflex(optimizer, torch.device("cpu"))
    reflex.set_bounds(BOUND, 5.0)
    for seed in (1, 2):
        give_gradients(params, seed)
        assert guarded_step(reflex, optimizer, GOOD) == 0
        give_gradients(twins, seed)
        twin.step()

    give_gradients(params, 99, spoil)
    before = everything(params, optimizer)
    gradients = [p.grad for p in params]
    values = copy.deepcopy(gradients)
    assert guarded_step(reflex, optimizer, loss) == code
    assert same(everything(params, optimizer), before)
    assert all(p.grad is g for p, g in zip(params, gradients, strict=True))
    assert same(gradients, values)
    assert not hasattr(optimizer, "found_inf")

    give_gradients(params, 4)
    give_gradients(twins, 4)
    assert guarded_step(reflex, optimizer, GOOD) == 0
    twin.step()
    assert same(everything(params, optimizer), everything(twins, twin))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_veto_of_the_very_first_step_is_as_if_it_had_not_been(name: str) -> None:
    """Buffers that a first step would create are not left uninitialised or full of NaN."""
    params, twins = parameters(), parameters()
    optimizer, twin = OPTIMIZERS[name](params), OPTIMIZERS[name](twins)
    reflex = Reflex(optimizer, torch.device("cpu"))
    give_gradients(params, 99, "nan")
    assert guarded_step(reflex, optimizer, GOOD) == wire.SKIP_NONFINITE
    for seed in (1, 2):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        guarded_step(reflex, optimizer, GOOD)
        twin.step()
    assert same(everything(params, optimizer), everything(twins, twin))


def test_a_parameter_that_joins_late_does_not_break_fused_momentum() -> None:
    """Fused SGD with a momentum buffer still missing takes the way of the others."""
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
    give_gradients(params, 1)
    params[2].grad = None
    optimizer.step()
    assert takes_found_inf(optimizer)
    give_gradients(params, 2)
    assert not takes_found_inf(optimizer)


def test_fused_sgd_without_momentum_needs_no_read() -> None:
    """It has no buffers to leave uninitialised, at the first step as at any other."""
    assert takes_found_inf(torch.optim.SGD(parameters(), lr=0.1, fused=True))


def test_an_ordered_skip_drops_a_healthy_update() -> None:
    """The command stands whatever the verdict is, with fused kernels and without."""
    for name in ("adamw", "adamw fused", "sgd fused momentum"):
        params = parameters()
        optimizer = OPTIMIZERS[name](params)
        reflex = Reflex(optimizer, torch.device("cpu"))
        give_gradients(params, 1)
        before = [p.detach().clone() for p in params]
        code = reflex.close_gate(None, by_command=True)
        optimizer.step()
        reflex.open_gate()
        assert code is not None
        assert float(code) == wire.SKIP_COMMAND
        assert same([p.detach() for p in params], before)


def test_a_gradient_set_to_none_during_the_step_stays_none_only_if_the_script_says_so() -> None:
    """The held gradients come back, but never over one that appeared meanwhile."""
    params = parameters()
    optimizer = torch.optim.SGD(params, lr=0.1)
    reflex = Reflex(optimizer, torch.device("cpu"))
    give_gradients(params, 1, "nan")
    reflex.close_gate(torch.ones(()), False)
    params[0].grad = fresh = torch.ones(4, 3)
    reflex.open_gate()
    assert params[0].grad is fresh
    assert params[1].grad is not None


# --- together with GradScaler ---------------------------------------------------------------


class Fp16Loop:
    """fp16 autocast on the CPU with GradScaler; ``spoil`` multiplies the loss."""

    def __init__(self, watch: Watch | None, fused: bool, policy: str = "guard") -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=fused)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
        self.guard = watch(self.model, self.optimizer, policy=policy) if watch else None
        self.records = Records(self.guard) if self.guard else None

    def step(self, seed: int, spoil: float = 1.0, unscale: bool = False) -> None:
        """One iteration."""
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            out = self.model(x)
        loss = nn.functional.mse_loss(out.float(), x.sum(1, keepdim=True)) * spoil
        self.scaler.scale(loss).backward()
        if unscale:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 100.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def weights(self) -> list[Tensor]:
        """A copy."""
        return [p.detach().clone() for p in self.model.parameters()]


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_veto_does_not_make_grad_scaler_back_off(
    watch: Watch, fused: bool, unscale: bool
) -> None:
    """Only the update is dropped: the scale stays, its growth goes on, no attribute is left."""
    loop = Fp16Loop(watch, fused)
    assert loop.guard is not None
    assert loop.records is not None
    loop.step(1, unscale=unscale)
    loop_of(loop.guard)._link.limits = wire.Limits(run="r", version=1, loss=100.0)
    before, scale = loop.weights(), loop.scaler.get_scale()
    loop.step(2, spoil=50.0, unscale=unscale)
    assert same(loop.weights(), before)
    assert loop.scaler.get_scale() == scale
    assert loop.scaler._get_growth_tracker() == 2
    assert loop.records.of("skipped") == [0, wire.SKIP_LOSS]
    loss = loop.records.of("loss")[1]
    assert loss is not None
    assert 100 < loss < 1000, "un-scaled"
    assert not hasattr(loop.optimizer, "found_inf")
    assert not hasattr(loop.optimizer, "grad_scale")
    loop.step(3, unscale=unscale)
    assert not same(loop.weights(), before)


@pytest.mark.parametrize("policy", ["observe", "guard"])
@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_is_grad_scalers_own_affair(watch: Watch, fused: bool, policy: str) -> None:
    """It is reported as SKIP_SCALER alone, and the scale backs off as without a watch."""
    loop, plain = Fp16Loop(watch, fused, policy), Fp16Loop(None, fused)
    assert loop.records is not None
    for one in (loop, plain):
        one.step(1)
        one.step(2, spoil=math.inf)
        one.step(3)
    assert (
        loop.records.of("skipped") == [0, wire.SKIP_SCALER, 0]
        if policy == "guard" or fused
        else True
    )
    assert loop.records.of("skipped")[1] == wire.SKIP_SCALER
    assert loop.records.of("loss_scale") == [256, 256, 128]
    assert loop.scaler.get_scale() == plain.scaler.get_scale() == 128
    assert same(loop.weights(), plain.weights())


@pytest.mark.parametrize("fused", [False, True])
def test_norms_are_those_of_the_unscaled_gradients(watch: Watch, fused: bool) -> None:
    """Whether or not the script un-scales: the same loop reports the same norms."""
    one, other = Fp16Loop(watch, fused), Fp16Loop(watch, fused)
    one.step(1, unscale=False)
    other.step(1, unscale=True)
    assert one.records is not None
    assert other.records is not None
    a, b = one.records.of("grad_norm")[0], other.records.of("grad_norm")[0]
    assert a == pytest.approx(b, rel=1e-6)


def test_two_scalers_are_not_mixed_up(watch: Watch) -> None:
    """Each loop holds the scaler that steps its own optimizer."""
    one, other = Fp16Loop(watch, fused=True), Fp16Loop(watch, fused=True)
    for seed in (1, 2):
        one.step(seed)
        other.step(seed)
    assert one.guard is not None
    assert other.guard is not None
    assert loop_of(one.guard)._state.scaler is one.scaler
    assert loop_of(other.guard)._state.scaler is other.scaler
