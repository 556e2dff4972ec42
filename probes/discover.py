"""Finding models and optimizers, without the script's help."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lossguard.probes.parameters import Groups, optimizer_parameters

_MOST_MODELS = 8


def models_of(groups: Groups) -> list[nn.Module]:
    """The modules that own what is updated, the one with most of it first; perhaps none.

    Among equals the smallest one that is more than a layer or a list of layers: a wrapper owns the
    same parameters as what it wraps, and the inner one has the plain names; of tied weights, and
    of the adapters of a frozen model, a part of the model may own them all. Looks once through the
    objects the garbage collector knows; takes tens of milliseconds, and no hook stays behind.
    """
    owned = {id(p) for p in optimizer_parameters(groups)}
    candidates = [(module, own) for module in _modules() if (own := _own(module) & owned)]
    found: list[nn.Module] = []
    while candidates and len(found) < _MOST_MODELS:
        best, covered = max(
            candidates, key=lambda c: (len(c[1]), _standing(c[0], owned), -_size(c[0]))
        )
        found.append(best)
        left = [(module, own - covered) for module, own in candidates]
        candidates = [(module, own) for module, own in left if own]
    return found


def _own(module: nn.Module) -> set[int]:
    try:
        return {id(p) for p in module.parameters()}
    except Exception:  # half-built, or with ideas of its own
        return set()


def _standing(module: nn.Module, owned: set[int]) -> int:
    """How much of a model it is: 2 for a script's own, 0 for a layer, a list, a wrapper, and where
    something else trains as well."""
    lists = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if not module._modules or type(module) in (*lists, *wrappers) or _is_compiled(module):
        return 0
    if any(p.requires_grad and id(p) not in owned for p in module.parameters()):
        return 0
    return 1 if type(module) is nn.Sequential else 2


def _is_compiled(module: nn.Module) -> bool:
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    return eval_frame is not None and issubclass(type(module), eval_frame.OptimizedModule)


def _size(module: nn.Module) -> int:
    return sum(1 for _ in module.modules())


def names_beside(models: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """A name for each module but the first, after its class."""
    named: dict[str, nn.Module] = {}
    for module in models[1:]:
        name = type(module).__name__
        named[name if name not in named else f"{name}{len(named) + 1}"] = module
    return named


def fed_alongside(
    optimizer: Optimizer, is_fed: Callable[[Tensor], bool], is_known: Callable[[Optimizer], bool]
) -> list[Optimizer]:
    """``optimizer`` and the others that are alive, update other parameters, and are fed as it is.

    Only those that torch calls hooks for: not a wrapper around an optimizer.
    """
    found, taken = [optimizer], {id(p) for p in optimizer_parameters(optimizer)}
    for thing in gc.get_objects():
        if not issubclass(type(thing), Optimizer) or thing is optimizer or is_known(thing):
            continue
        if not getattr(type(thing).step, "hooked", False):
            continue
        parameters = optimizer_parameters(thing)
        ids = {id(p) for p in parameters}
        if ids & taken or not any(is_fed(p) for p in parameters):
            continue
        taken |= ids
        found.append(thing)
    return found


def entrance_of(model: nn.Module) -> nn.Module:
    """The module that every forward passes, also one around the wrapper of data parallelism."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return inner if isinstance(inner, nn.Module) else model


def entrance_inside(model: nn.Module | None) -> list[nn.Module]:
    """The first part of the model with parameters: what runs first where a script never calls the
    model as a whole, but methods of its own (a LightningModule). None or one."""
    lists = (nn.ModuleList, nn.ModuleDict)
    part = model
    while part is not None and (part is model or isinstance(part, lists)):
        children = [
            child for child in part.children() if next(child.parameters(), None) is not None
        ]
        part = children[0] if children else None
    return [] if part is None else [part]


def compiled_forms_of(model: nn.Module | None) -> list[nn.Module]:
    """What ``torch.compile(model)`` returned, of the model or of something around it.

    Hooks of the compiled model itself run inside the graph, where ours do nothing; those of its
    compiled form run outside. Looks through all objects, as ``models_of``, where anything was
    compiled at all.
    """
    if model is None or "torch._dynamo.eval_frame" not in sys.modules:
        return []
    compiled: list[Any] = [m for m in _modules() if _is_compiled(m)]
    return [m for m in compiled if any(inner is model for inner in m._orig_mod.modules())]


def _modules() -> list[nn.Module]:
    """Every module that is alive. Asks for the type, never for ``__class__``: a proxy could run
    code of its own."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
