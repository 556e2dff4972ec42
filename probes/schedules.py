"""Finding the learning-rate schedules of an optimizer, without the script's help."""

from __future__ import annotations

import gc

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


def schedulers_of(optimizer: torch.optim.Optimizer) -> list[LRScheduler]:
    """The schedulers that act on ``optimizer``, outermost only.

    A ``SequentialLR`` or ``ChainedScheduler`` carries its parts in its own state.
    """
    # Asks for the type, never for __class__: a proxy could run code of its own.
    found = [
        thing
        for thing in gc.get_objects()
        if issubclass(type(thing), (LRScheduler, ReduceLROnPlateau))
        and getattr(thing, "optimizer", None) is optimizer
    ]
    inner = {id(part) for thing in found for part in getattr(thing, "_schedulers", ())}
    return [thing for thing in found if id(thing) not in inner]
