"""Copies of nested training state: to host memory, and back in place."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.device_events import Mark
from lossguard.probes.pinned import pinned_like
from lossguard.probes.sharded import is_distributed, local_part


def to_host(value: Any) -> Any:
    """A deep copy whose tensors live in host memory (pinned where the original is on CUDA).

    Of a tensor that is cut over ranks the part that lies here is copied. Copies from CUDA are
    queued on the current stream without waiting: they are ordered before any later kernel that
    writes the originals.
    """
    if isinstance(value, Tensor):
        return _tensor_to_host(value)
    if isinstance(value, dict):
        return {key: to_host(item) for key, item in value.items()}
    if _is_plain(value):
        return type(value)(to_host(item) for item in value)
    return copy.deepcopy(value)


def _is_plain(value: Any) -> bool:
    return type(value) in (list, tuple)


def _tensor_to_host(tensor: Tensor) -> Tensor:
    source = local_part(tensor.detach())
    if source.device.type == "cpu":
        return source.clone()
    if source.device.type != "cuda":
        return source.cpu()
    host = pinned_like(source)
    host.copy_(source, non_blocking=True)
    return host


def copies_done(devices: Iterable[torch.device]) -> Mark | None:
    """A mark behind the copies that were just queued from there; None where nothing is queued, as
    on the CPU."""
    queued = [device for device in devices if device.type == "cuda"]
    return Mark(queued) if queued else None


def back_in_place(live: Any, kept: Any) -> Any:
    """What ``live`` should become to equal ``kept``, reusing the live tensors where they fit.

    Never aliases ``kept``: a second restore from the same copy is as exact as the first.
    """
    if isinstance(kept, Tensor):
        if isinstance(live, Tensor) and is_distributed(live):
            back_in_place(local_part(live.detach()), kept)
            return live
        if isinstance(live, Tensor) and live.shape == kept.shape and live.dtype == kept.dtype:
            live.copy_(kept, non_blocking=True)
            return live
        device = live.device if isinstance(live, Tensor) else kept.device
        return kept.detach().to(device, copy=True)
    if isinstance(kept, dict):
        before = live if isinstance(live, dict) else {}
        return {key: back_in_place(before.get(key), item) for key, item in kept.items()}
    if _is_plain(kept):
        before_items = list(live) if isinstance(live, (list, tuple)) else []
        before_items += [None] * (len(kept) - len(before_items))
        pairs = zip(before_items, kept, strict=False)
        return type(kept)(back_in_place(old, new) for old, new in pairs)
    return copy.deepcopy(kept)


def size_bytes(value: Any) -> int:
    """Bytes held by the tensors inside."""
    if isinstance(value, Tensor):
        here = local_part(value.detach())
        return here.numel() * here.element_size()
    if isinstance(value, dict):
        return sum(size_bytes(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(size_bytes(item) for item in value)
    return 0
