"""Names: as the author of the model knows them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from lossguard.probes.discover import models_of
from lossguard.probes.parameters import named_parameters, plain_name, watched_modules
from lossguard.probes.schedules import schedulers_of
from tests.unit.probes.loops import Tiny


class Wrapper(nn.Module):
    """What DDP looks like from outside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def names(model: nn.Module, limit: int = 64) -> list[str]:
    """What is watched, in order."""
    return [name for name, _ in watched_modules(model, limit)]


def test_a_gpt_is_watched_at_its_blocks_embeddings_and_head() -> None:
    """Not inside of blocks, and in the order of the forward pass."""
    assert names(Tiny(3)) == ["embedding", "blocks.0", "blocks.1", "blocks.2", "head"]


def test_an_mlp_in_a_sequential_is_watched_at_its_layers_with_parameters() -> None:
    """Activations and dropout between them have nothing of their own."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout(), nn.Linear(2, 1))
    assert names(model) == ["0", "3"]


def test_a_model_without_any_of_these_is_watched_at_its_children() -> None:
    """A convolutional net written by hand."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)
            self.norm = nn.BatchNorm2d(1)

    assert names(Net()) == ["conv", "norm"]


def test_only_the_last_linear_outside_of_blocks_is_the_head() -> None:
    """Projections before it are not."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.blocks = nn.ModuleList([nn.Linear(2, 2)])
            self.last = nn.Linear(2, 1)

    assert names(Net()) == ["blocks.0", "last"]


def test_many_blocks_are_picked_evenly() -> None:
    """At most the limit, the first among them, no name twice."""
    picked = names(Tiny(200))
    assert len(picked) == 64
    assert picked[0] == "embedding"
    numbers = [int(name.split(".")[1]) for name in picked[1:] if name.startswith("blocks")]
    gaps = {b - a for a, b in pairwise(numbers)}
    assert gaps <= {3, 4}


def test_wrappers_do_not_show() -> None:
    """DDP, compile, FSDP, and all of them at once."""
    for model in (
        Wrapper(Tiny()),
        torch.compile(Tiny(), backend="eager"),
        Wrapper(Wrapper(Tiny())),
    ):
        assert isinstance(model, nn.Module)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = [name.removeprefix("module.") for name, _ in named_parameters(model, optimizer)]
        assert found == [name for name, _ in Tiny().named_parameters()]
        assert [name.removeprefix("module.") for name in names(model)] == names(Tiny())
    assert plain_name("module._orig_mod.a._fsdp_wrapped_module.b") == "a.b"
    assert plain_name("submodule.weight") == "submodule.weight"


def test_what_no_model_knows_has_a_number() -> None:
    """Parameters of the loss, or an optimizer on bare tensors."""
    model, alone = nn.Linear(1, 1, bias=False), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([alone, *model.parameters()], lr=0.1)
    assert [name for name, _ in named_parameters(model, optimizer)] == ["weight", "param.0"]
    assert [name for name, _ in named_parameters(None, optimizer)] == ["param.0", "param.1"]


def test_frozen_parts_are_not_named() -> None:
    """Only what the optimizer updates."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    assert [n for n, _ in named_parameters(model, optimizer)] == ["head.weight", "head.bias"]


# --- finding model and schedules ------------------------------------------------------------


def test_the_model_of_an_optimizer_is_found() -> None:
    """The whole of it, not a layer; and the inner one of a wrapper, which has the plain names."""
    model, other = Tiny(), Tiny()
    wrapper = Wrapper(model)
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.1)
    assert models_of(optimizer) == [model]
    assert other is not model


def test_of_a_partly_frozen_model_the_whole_is_found_where_two_parts_train() -> None:
    """What covers most of the parameters; among equals the smallest."""
    model = Tiny()
    optimizer = torch.optim.SGD([*model.embedding.parameters(), *model.head.parameters()], lr=0.1)
    assert models_of(optimizer) == [model]
    assert models_of(torch.optim.SGD(model.head.parameters(), lr=0.1)) == [model.head]
    assert models_of(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)) == []


def test_a_module_that_breaks_when_looked_at_is_passed_over() -> None:
    """Somebody's half-built module elsewhere in the process is not our trouble."""

    class Half(nn.Module):
        def __init__(self) -> None:
            pass

    half = Half()
    model = nn.Linear(1, 1)
    assert models_of(torch.optim.SGD(model.parameters(), lr=0.1)) == [model]
    assert half is not None


def test_the_outermost_schedules_are_found() -> None:
    """Those of this optimizer; the parts of a sequence are in its own state."""
    from torch.optim import lr_scheduler

    optimizer, other = (torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2))
    parts: list[Any] = [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ConstantLR(optimizer)]
    outer = lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer)
    foreign = lr_scheduler.ConstantLR(other)
    found = schedulers_of(optimizer)
    assert {id(s) for s in found} == {id(outer), id(plateau)}
    assert schedulers_of(other) == [foreign]
