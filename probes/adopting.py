"""A loop that was given a model and no optimizer: it takes in those that step on its parameters."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from lossguard.probes.last_resort import contained
from lossguard.probes.loop import Loop
from lossguard.probes.parameters import optimizer_parameters


def adopt_optimizers_of(loop: Loop) -> None:
    """From now on, as they step; ends with the loop."""
    reference = weakref.ref(loop)
    refused: list[weakref.ref[Optimizer]] = []

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        one = reference()
        if one is None or not one.is_alive or optimizer in one.optimizers:
            return
        if any(r() is optimizer for r in refused):
            return
        if any(map(one.senses.owns, optimizer_parameters(optimizer))) and not one.is_in_step:
            one.replace_by(optimizer)
        else:
            refused.append(weakref.ref(optimizer, refused.remove))

    outside = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    handle = register_optimizer_step_pre_hook(outside(contained(before_step)))
    loop.at_end(handle.remove)
