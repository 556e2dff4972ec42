"""The part of a training state that belongs on this rank, from the parts that others have left.

One part is read at a time: what is held at once is one of theirs and ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossguard.probes.cut import Path, Place, leaves

Live = Callable[[Path, tuple[int, ...]], Place | None]
"""Where the part of a tensor lies that this rank wants, by its path and the shape of the whole;
None: all of it."""

_NEEDED = ("model", "optimizers")


class _Wanted(NamedTuple):
    """A block of a tensor that is being put together."""

    whole: tuple[int, ...]
    at: tuple[int, ...]
    block: Tensor
    taken: dict[tuple[int, ...], int]
    """How many elements came from each part, by where it begins: some lie on several ranks."""


class Rejoined:
    """Made with what one rank has left, which also stands for all that every rank has whole."""

    def __init__(self, first: Mapping[str, Any], places: Mapping[Path, Place], live: Live) -> None:
        """Raises ValueError where a tensor has another shape now."""
        self._kept = dict(first)
        self._first = {path for path, _ in leaves(first)}
        self._wanted: dict[Path, _Wanted] = {}
        for path, tensor in leaves(first):
            saved = places.get(path)
            whole = saved[0] if saved else tuple(tensor.shape)
            mine = live(path, whole)
            if saved is None and mine is None:
                continue
            if mine is not None and mine[0] != whole:
                name = ".".join(map(str, path))
                raise ValueError(f"{name} had the shape {whole}, and now has {mine[0]}")
            at, size = mine[1:] if mine else ((0,) * len(whole), whole)
            block = torch.empty(size, dtype=tensor.dtype)
            self._wanted[path] = _Wanted(whole, at, block, {})

    def take(self, kept: Mapping[str, Any], places: Mapping[Path, Place]) -> None:
        """What one rank has left; the first one's too. Each once.

        Raises ValueError where it has something of the training that the first rank has not.
        """
        for path, part in leaves(kept):
            if path[0] in _NEEDED and path not in self._first:
                raise ValueError(f"{'.'.join(map(str, path))} was left by some ranks only")
            wanted = self._wanted.get(path)
            if wanted is None:
                continue
            origin = (0,) * part.dim()
            _, begins, _ = places.get(path, (None, origin, None))
            if begins not in wanted.taken:
                wanted.taken[begins] = _copy_overlap(wanted, part, begins)

    def whole(self) -> dict[str, Any]:
        """All of it. Raises ValueError where a part has not come."""
        for path, wanted in self._wanted.items():
            if sum(wanted.taken.values()) != wanted.block.numel():
                raise ValueError(f"a part of {'.'.join(map(str, path))} is missing")
        blocks = {path: wanted.block for path, wanted in self._wanted.items()}
        rebuilt: dict[str, Any] = _with(self._kept, blocks, ())
        return rebuilt


def _copy_overlap(wanted: _Wanted, part: Tensor, begins: tuple[int, ...]) -> int:
    """Into the block what the part has of it; how many elements."""
    into, of = [], []
    sizes = zip(wanted.at, wanted.block.shape, begins, part.shape, strict=True)
    for at, size, begin, extent in sizes:
        low, high = max(at, begin), min(at + size, begin + extent)
        if high <= low:
            return 0
        into.append(slice(low - at, high - at))
        of.append(slice(low - begin, high - begin))
    wanted.block[tuple(into)] = part[tuple(of)]
    return math.prod(s.stop - s.start for s in of)


def _with(value: Any, blocks: Mapping[Path, Tensor], path: Path) -> Any:
    if isinstance(value, Tensor):
        return blocks.get(path, value)
    if isinstance(value, Mapping):
        return {key: _with(item, blocks, (*path, key)) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with(item, blocks, (*path, i)) for i, item in enumerate(value))
    return value
