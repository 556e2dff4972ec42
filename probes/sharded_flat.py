"""Parameters that the first FSDP has cut: plain tensors, of which a rank has some elements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def flat_holders(models: Iterable[nn.Module]) -> dict[int, tuple[int, ...]]:
    """The ranks that hold the parts of each parameter of a ``FullyShardedDataParallel``, by its id.

    Nothing says so on the parameter itself. With ``NO_SHARD`` all is whole; with ``HYBRID_SHARD``
    the ranks are those of this rank's group.
    """
    found: dict[int, tuple[int, ...]] = {}
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    for model in models:
        for module in model.modules():
            handle: Any = getattr(module, "_handle", None)
            flat: Any = getattr(handle, "flat_param", None)
            if not isinstance(flat, Tensor) or not getattr(handle, "uses_sharded_strategy", False):
                continue
            ranks = tuple(torch.distributed.get_process_group_ranks(handle.process_group))
            if len(ranks) > 1:
                originals = getattr(flat, "_params", None) or ()
                found.update((id(parameter), ranks) for parameter in (flat, *originals))
    return found
