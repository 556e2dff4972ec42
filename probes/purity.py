"""Whether repeating a forward can have no effect but on tensors: said from the code alone."""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

_WRITES = ("STORE_GLOBAL", "STORE_ATTR", "STORE_SUBSCR", "DELETE_", "STORE_SLICE", "IMPORT_NAME")
_EFFECTS = frozenset((
    "print", "open", "write", "append", "extend", "insert", "update", "add", "pop", "popitem",
    "popleft", "appendleft", "setdefault", "clear", "remove", "discard", "setattr", "exec", "eval",
    "info", "warning", "warn", "debug", "input", "next", "send", "put", "get_nowait", "step",
    "save", "dump", "all_reduce", "all_gather", "broadcast", "barrier",
))  # fmt: skip
_MOST_FUNCTIONS = 500


def looks_pure(model: nn.Module) -> bool:
    """Whether no forward in the model stores anything, or calls what is known to have effects.

    Torch's own modules count as pure: they write to their buffers and draw random numbers only.
    Of the others ``forward`` is read, and every method of the module and every function of the
    script that it names. In doubt: no.
    """
    kinds = {type(module) for module in model.modules()}
    own = [kind for kind in kinds if not kind.__module__.startswith("torch.nn.")]
    return all(_is_pure(kind) for kind in own)


def _is_pure(kind: type[nn.Module]) -> bool:
    if kind.__call__ is not nn.Module.__call__:
        return False
    waiting: list[Any] = [kind.forward]
    seen: set[Any] = set()
    while waiting:
        function = waiting.pop()
        if function in seen or not isinstance(function, types.FunctionType):
            continue
        seen.add(function)
        if (function.__module__ or "").startswith("torch."):
            continue
        if len(seen) > _MOST_FUNCTIONS:
            return False
        for code in _codes(function.__code__):
            if not _EFFECTS.isdisjoint(code.co_names) or _stores(code):
                return False
            for name in code.co_names:
                waiting += [getattr(kind, name, None), function.__globals__.get(name)]
    return isinstance(kind.forward, types.FunctionType)


def _stores(code: types.CodeType) -> bool:
    return any(i.opname.startswith(_WRITES) for i in dis.get_instructions(code))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The function's, and those of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def hooks_of_others(model: nn.Module, ours: type[Any]) -> bool:
    """Whether a forward calls hooks that are neither ours nor torch's own."""
    from torch.nn.modules import module as everywhere

    hooks: list[Any] = [
        *everywhere._global_forward_hooks.values(),
        *everywhere._global_forward_pre_hooks.values(),
    ]
    for module in model.modules():
        hooks += module._forward_hooks.values()
        hooks += module._forward_pre_hooks.values()
    return any(
        not isinstance(hook, ours)
        and not (getattr(hook, "__module__", None) or "").startswith("torch.nn.utils.")
        for hook in hooks
    )
