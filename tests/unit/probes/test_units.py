"""Shares of zeros and of saturated outputs, against a count by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lossguard.probes.units import ends_of, gives_zeros
from tests.unit.probes.loops import Records, Watch

pytestmark = pytest.mark.usefixtures("no_link")


def sixteenth(watch: Watch, model: nn.Module, *inputs: Tensor) -> dict[str, float]:
    """What the first sampled step has of units, with these forwards in it."""
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), weight], lr=0.0)
    records = Records(watch(model, optimizer))
    for _ in range(16):
        weight.grad = torch.zeros(())
        for x in inputs:
            model(x)
        optimizer.step()
    assert not any("_share/" in name for step in records.steps[:15] for name in step)
    return {n: v for n, v in records.steps[15].items() if "_share/" in n}


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Threshold(0.1, 0.0), nn.Hardswish(),
        nn.Hardshrink(), nn.Softshrink(),
    ],
    ids=str,
)  # fmt: skip
def test_exact_zeros_are_counted(watch: Watch, module: nn.Module) -> None:
    """Of every module that gives them on a whole range of inputs."""
    x = 3.0 * torch.randn(8, 50)
    share = float((module(x.clone()) == 0).float().mean())
    assert 0.05 < share < 0.95
    found = sixteenth(watch, nn.Sequential(module), x)
    assert found == pytest.approx({"zero_share/0": share})


@pytest.mark.parametrize(
    ("module", "low", "high"),
    [
        (nn.Sigmoid(), 0.0, 1.0),
        (nn.Hardsigmoid(), 0.0, 1.0),
        (nn.Tanh(), -1.0, 1.0),
        (nn.Softsign(), -1.0, 1.0),
        (nn.Hardtanh(-2.0, 3.0), -2.0, 3.0),
    ],
    ids=str,
)
def test_values_near_an_end_are_counted(
    watch: Watch, module: nn.Module, low: float, high: float
) -> None:
    """Within 0.01 of it, on both sides."""
    x = 100.0 * torch.randn(8, 50)
    out = module(x)
    share = float(((out < low + 0.01) | (out > high - 0.01)).float().mean())
    assert 0.2 < share < 1.0
    found = sixteenth(watch, nn.Sequential(module), x)
    assert found == pytest.approx({"saturated_share/0": share})


@pytest.mark.parametrize(
    "module",
    [nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Softplus(), nn.Threshold(0.0, 1.0)],
    ids=str,
)
def test_others_are_left_alone(module: nn.Module) -> None:
    """They neither put out exact zeros nor have two ends."""
    assert not gives_zeros(module)
    assert ends_of(module) is None


@pytest.mark.parametrize("layout", ["dense", "turned", "cut"])
def test_large_outputs_are_sampled_evenly(watch: Watch, layout: str) -> None:
    """A dead quarter of the channels is a quarter of the sample, in any order of memory."""
    x = torch.rand(32, 64, 40)
    x[:, ::4] *= -1.0
    if layout == "turned":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "cut":
        x = torch.cat([x, x], 2)[:, :, :40]
    found = sixteenth(watch, nn.Sequential(nn.ReLU()), x)
    assert found["zero_share/0"] == pytest.approx(0.25, abs=0.02)


def test_the_first_training_forward_of_the_step_counts(watch: Watch) -> None:
    """One micro-batch is enough."""
    found = sixteenth(watch, nn.Sequential(nn.ReLU()), torch.ones(4), -torch.ones(4))
    assert found == {"zero_share/0": 0.0}


def test_evaluation_and_odd_outputs_are_not_measured(watch: Watch) -> None:
    """Without gradients, or without numbers."""
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    records = Records(watch(model, optimizer))
    for _ in range(16):
        weight.grad = torch.zeros(())
        with torch.no_grad():
            model(torch.ones(3))
        model[0](torch.ones(3, dtype=torch.long))
        model[0](torch.ones(0))
        model[1](torch.ones(3, device="meta"))
        optimizer.step()
    assert {"zero_share/0", "saturated_share/1"} <= records.missing[15]


def test_at_most_64_of_each_over_the_whole_depth(watch: Watch) -> None:
    """A model of 100 pairs is looked at in 64 places, the first and nearly the last."""
    pairs = [nn.Sequential(nn.ReLU(), nn.Sigmoid()) for _ in range(100)]
    found = sixteenth(watch, nn.Sequential(*pairs), torch.randn(2, 3))
    for family in ("zero_share/", "saturated_share/"):
        depths = [int(name.split("/")[1].split(".")[0]) for name in found if family in name]
        assert len(depths) == 64
        assert depths == sorted(depths)
        assert depths[0] == 0
        assert depths[-1] >= 97


def test_selective_checkpointing_sees_the_same_operations_twice(watch: Watch) -> None:
    """Inside of it nothing is measured: what is recomputed must match what was computed."""

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))

    def run(watched: bool) -> list[Tensor]:
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        guard = watch(model, optimizer) if watched else None
        found = []
        for step in range(17):
            optimizer.zero_grad()
            x = torch.full((2, 4), float(step))
            out: Any = checkpoint(
                model[:2],
                x,
                use_reentrant=False,
                context_fn=lambda: create_selective_checkpoint_contexts(policy),
            )
            model[2](out).sum().backward()
            found += [p.grad.clone() for p in model.parameters() if p.grad is not None]
            optimizer.step()
        if guard is not None:
            guard.close()
        return found

    plain, watched = run(False), run(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
