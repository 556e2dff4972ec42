"""Hooks on the modules of a script, which its copies, files and compilers do not see."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from lossguard.failpoints import IS_SET, reach
from lossguard.probes.last_resort import complain

Function = Callable[..., None]


class Hook:
    """A function of ours as a hook. A copy of it, deep or pickled, does nothing.

    A model's copies are not watched, and what they are pickled into can be read where Lossguard
    is not installed.
    """

    def __init__(self, function: Function) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        try:
            self._function(*args)
            if IS_SET:
                reach("entry.forward_hook")
        except Exception as error:
            complain(self._function, error)

    def forget(self) -> None:
        """Do nothing from now on, whatever the arguments: torch may be about to call it still."""
        self._function = _nothing()

    def __deepcopy__(self, memo: Any) -> Any:
        return _nothing()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


def _nothing() -> Callable[..., None]:
    """Takes whatever it is given and returns None; the standard library has no plainer one."""
    return contextlib.nullcontext().__exit__


def _is_nothing(hook: Any) -> bool:
    return getattr(hook, "__func__", None) is contextlib.nullcontext.__exit__


class Hooks:
    """All hooks of one watch. Taken away for a moment, they come back in their places."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._hooks: list[Hook] = []
        self._modules: dict[int, nn.Module] = {}
        self._away: list[tuple[dict[int, Any], list[tuple[int, Any]]]] = []
        self._depth = 0
        self._taken_by = 0

    def after_forward(self, module: nn.Module, function: Function) -> None:
        """Call ``function(module, args, output)``."""
        self._modules[id(module)] = module
        self._handles.append(module.register_forward_hook(self._hook(function)))

    def before_forward(self, module: nn.Module, function: Function) -> None:
        """Call ``function(module, args, kwargs)``."""
        self._modules[id(module)] = module
        handle = module.register_forward_pre_hook(self._hook(function), with_kwargs=True)
        self._handles.append(handle)

    def _hook(self, function: Function) -> Hook:
        self._hooks.append(Hook(function))
        return self._hooks[-1]

    def remove(self) -> None:
        """For good. Idempotent."""
        for hook in self._hooks:
            hook.forget()
        for handle in self._handles:
            handle.remove()
        self._handles, self._hooks, self._modules = [], [], {}

    def take_off(self) -> None:
        """Until ``put_back`` is called as often. Not while a forward runs in another thread."""
        self._depth += 1
        if self._depth > 1:
            return
        self._taken_by = threading.get_ident()
        ours = {handle.id for handle in self._handles}
        for module in self._modules.values():
            for entries in _entries(module):
                if ours & entries.keys():
                    self._away.append((entries, list(entries.items())))
                    for key in ours & entries.keys():
                        del entries[key]

    def put_back(self) -> None:
        """Where they were. Hooks of others that came or went in between came or went.

        Does nothing in a thread that has not taken them off.
        """
        if self._depth == 0 or self._taken_by != threading.get_ident():
            return
        self._depth -= 1
        if self._depth > 0:
            return
        ours = {handle.id for handle in self._handles}
        away, self._away = self._away, []
        for entries, before in away:
            now = dict(entries)
            entries.clear()
            entries.update((key, value) for key, value in before if key in ours or key in now)
            entries.update(now)


def drop_copies(model: Any) -> None:
    """Remove what copying a watched model has left of our hooks."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if _is_nothing(hook)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def _entries(module: nn.Module) -> Iterator[dict[int, Any]]:
    yield module._forward_hooks
    yield module._forward_pre_hooks
    yield module._forward_pre_hooks_with_kwargs
