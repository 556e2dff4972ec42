"""Where in the data a script is: what a loader or a sampler says of itself, and going back to it.

A ``StatefulDataLoader`` of torchdata, or whatever is iterated and has ``state_dict`` and
``load_state_dict``. Data flows on after a rollback unless a replay is asked for.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lossguard.probes.tensors import to_host


def is_data_position(thing: Any) -> bool:
    """Whether it is something that a script draws its batches from."""
    if isinstance(thing, (Tensor, nn.Module, dict, list)):
        return False
    return all(hasattr(thing, name) for name in ("__iter__", "state_dict", "load_state_dict"))


def capture_position(loader: Any) -> Any:
    """Its state on the host; None where nobody iterates: asking would make it begin, and draw."""
    if getattr(loader, "_iterator", loader) is None:
        return None
    return to_host(loader.state_dict())


def replay_from(loader: Any, kept: Any) -> str:
    """Go back to ``kept``; empty, or why that is not possible: then nothing was changed.

    torchdata's loader takes a position up when it is iterated anew, which a loop that is under way
    does not do. So the iterator that the loop holds is given the place of a fresh one. One that has
    workers cannot be: they have prepared the batches to come.
    """
    if kept is None:
        return "nobody was iterating when the snapshot was taken"
    live = getattr(loader, "_iterator", None)
    if getattr(loader, "num_workers", 0) and live is not None:
        return "its workers have prepared the batches to come"
    generators = [torch.default_generator, getattr(loader, "generator", None)]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    loader.load_state_dict(copy.deepcopy(kept))
    if live is None:
        return ""
    fresh = iter(loader)  # draws a seed
    for generator, state in states:
        generator.set_state(state)
    vars(live).clear()
    vars(live).update(vars(fresh))
    loader._iterator = live
    return ""
