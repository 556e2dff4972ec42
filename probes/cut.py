"""Where the parts of a training state that lie on this rank belong in the whole.

Written beside a snapshot, it lets another number of ranks put their own parts together from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lossguard.probes.sharded import is_distributed, is_whole

Path = tuple[Any, ...]
"""The keys and places in lists that lead to a tensor."""
Place = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The shape of the whole, where in it the part begins, and the shape of the part."""
_PLAIN = (Tensor, torch.nn.Parameter)
"""Told by their type, which is faster than by what they lack."""


class CutOtherwise(ValueError):
    """A tensor whose part is no block of the whole; names it."""


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in a nesting of dicts, lists and tuples, with the way to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))


@torch.no_grad()
def places_in(value: Any, path: Path = ()) -> dict[Path, Place]:
    """Of every tensor inside that is cut over ranks. Communicates nothing. Raises CutOtherwise."""
    places = {}
    for where, tensor in leaves(value, path):
        if (place := place_of(tensor, where)) is not None:
            places[where] = place
    return places


@torch.no_grad()
def place_of(tensor: Tensor, path: Path) -> Place | None:
    """Of the part that lies here; None where the tensor is whole. Communicates nothing.

    Raises CutOtherwise: a sum that is still to be taken, or parts that are interleaved.
    """
    if type(tensor) in _PLAIN or not is_distributed(tensor) or is_whole(tensor):
        return None
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    placements: Any = tensor.placements  # type: ignore[attr-defined]
    name = ".".join(map(str, path))
    place = _place(tuple(tensor.shape), mesh, tuple(placements))
    if place is None:
        raise CutOtherwise(f"{name} is cut as {placements}")
    if place[2] != tuple(tensor.to_local().shape):  # type: ignore[attr-defined]
        raise CutOtherwise(f"{name} has a part of another shape than {place[2]}")
    return place


@lru_cache(maxsize=4096)
def _place(whole: tuple[int, ...], mesh: Any, placements: tuple[Any, ...]) -> Place | None:
    """Tens of microseconds, and most tensors of a model are cut like others."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not all(p.is_replicate() or type(p) is Shard for p in placements):
        return None
    shape, offset = compute_local_shape_and_global_offset(whole, mesh, placements)
    return whole, tuple(offset), tuple(shape)
