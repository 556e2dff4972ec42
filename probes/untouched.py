"""Running a model so that nothing of it, and nothing around it, is changed."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lossguard.probes.random_state import capture_random, restore_random

_MOST_BYTES = 64 << 20
_CONTAINERS = (list, dict, set, deque, OrderedDict)


class WouldChange(Exception):
    """What runs was about to write to a tensor that was there before."""


class ReadOnly(TorchDispatchMode):
    """Operations write to nothing but tensors that were made under this mode, or are ``ours``.

    The one that would raises ``WouldChange`` before it does. What compiled extensions write behind
    torch's back is not seen.
    """

    def __init__(self, ours: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made = {_memory(tensor) for tensor in ours}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for i, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[i] if i < len(args) else kwargs.get(argument.name)
                    if any(_memory(t) not in self._made for t in _tensors(given)):
                        raise WouldChange(func._schema.name)
        result = func(*args, **kwargs)
        old = {_memory(t) for t in _tensors((args, kwargs))}
        self._made.update(_memory(t) for t in _tensors(result) if _memory(t) not in old)
        return result


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    """The same for all tensors that share memory."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside leaves the model, the random generators and all tensors as they are.

    Buffers are replaced by copies meanwhile (of more than 64 MiB the rest is read-only), attributes
    of modules and what lies in lists and dicts among them are put back, random generators turned
    back, no gradient is recorded. Writing to any other tensor raises ``WouldChange``. What a
    forward does besides (prints, files, objects of its own) cannot be undone.
    """
    random = capture_random()
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    contents = [_contents(module) for module in modules]
    try:
        copies = _copy_buffers(modules)
        with torch.no_grad(), ReadOnly(copies):
            yield
    finally:
        for module, before, inner in zip(modules, attributes, contents, strict=True):
            _put_back_attributes(module.__dict__, before)
            for container, kept in inner:
                _put_back(container, kept)
        restore_random(random)


def _copy_buffers(modules: Sequence[nn.Module]) -> list[Tensor]:
    """In their places from now on; the dicts that held the real ones are not touched."""
    copies: dict[int, Tensor] = {}
    left = _MOST_BYTES
    for module in modules:
        fresh: dict[str, Tensor | None] = {}
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in copies:
                size = buffer.numel() * buffer.element_size()
                if type(buffer) is not Tensor or size > left:
                    fresh[name] = buffer
                    continue
                left -= size
                copies[id(buffer)] = buffer.detach().clone()
            fresh[name] = buffer if buffer is None else copies[id(buffer)]
        module.__dict__["_buffers"] = fresh
    return list(copies.values())


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    return [(v, v.copy()) for v in module.__dict__.values() if type(v) in _CONTAINERS]


def _put_back_attributes(now: dict[str, Any], before: dict[str, Any]) -> None:
    for name in now.keys() - before.keys():
        del now[name]
    for name, value in before.items():
        if now.get(name, now) is not value:
            now[name] = value


def _put_back(container: Any, kept: Any) -> None:
    if container is kept or _is_same(container, kept):
        return
    container.clear()
    (container.extend if isinstance(container, (list, deque)) else container.update)(kept)


def _is_same(container: Any, kept: Any) -> bool:
    """Whether the very same things are in it, in the same order."""
    if len(container) != len(kept):
        return False
    pairs: Any = zip(container, kept, strict=True)
    if isinstance(container, dict):
        pairs = zip(container.items(), kept.items(), strict=True)
        return all(a[0] is b[0] and a[1] is b[1] for a, b in pairs)
    return all(a is b for a, b in pairs)
