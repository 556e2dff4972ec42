"""Finding the model that an optimizer updates, without the script's help."""

from __future__ import annotations

import gc
import sys
from typing import Any

import torch
from torch import nn

from lossguard.probes.parameters import optimizer_parameters


def model_of(optimizer: torch.optim.Optimizer) -> nn.Module | None:
    """The module that owns most of the optimizer's parameters, or None where none owns any.

    Among equals the smallest one (a DDP or compile wrapper owns the same parameters as what it
    wraps, and the inner one has the plain names). Looks once through the objects the garbage
    collector knows; takes tens of milliseconds, and no hook stays behind.
    """
    owned = {id(p) for p in optimizer_parameters(optimizer)}
    best: tuple[int, int, nn.Module] | None = None
    for candidate in _modules():
        try:
            own = [id(p) for p in candidate.parameters()]
        except Exception:  # half-built, or with ideas of its own
            continue
        covered = sum(1 for key in own if key in owned)
        if covered == 0:
            continue
        size = sum(1 for _ in candidate.modules())
        if best is None or (covered, -size) > (best[0], -best[1]):
            best = (covered, size, candidate)
    return best[2] if best else None


def entrance_of(model: nn.Module) -> nn.Module:
    """The module that every forward passes, also one around the wrapper of data parallelism."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return inner if isinstance(inner, nn.Module) else model


def compiled_forms_of(model: nn.Module | None) -> list[nn.Module]:
    """What ``torch.compile(model)`` returned, of the model or of something around it.

    Hooks of the compiled model itself run inside the graph, where ours do nothing; those of its
    compiled form run outside. Looks through all objects, as ``model_of``, where anything was
    compiled at all.
    """
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    if model is None or eval_frame is None:
        return []
    compiled: list[Any] = [m for m in _modules() if issubclass(type(m), eval_frame.OptimizedModule)]
    return [m for m in compiled if any(inner is model for inner in m._orig_mod.modules())]


def _modules() -> list[nn.Module]:
    """Every module that is alive. Asks for the type, never for ``__class__``: a proxy could run
    code of its own."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
