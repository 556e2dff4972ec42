"""Two ways to stand in front of a function, and to step aside again."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

Make = Callable[[Any], Any]
"""From the original function to one that calls it and listens."""
Undo = Callable[[], None]


def wrap(owner: Any, name: str, make: Make) -> Undo | None:
    """Put a listening function in the place of ``owner.name``; None where there is none."""
    original = getattr(owner, name, None)
    if original is None:  # another torch version: the probe does without
        return None
    through, stop = _gate(original, make)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return through(*args, **kwargs)

    setattr(owner, name, wrapper)

    def undo() -> None:
        stop()
        if getattr(owner, name, None) is wrapper:  # else somebody wrapped ours: it stays, inert
            setattr(owner, name, original)

    return undo


def _stand_in(*args: Any, _through: Any, **kwargs: Any) -> Any:
    return _through(*args, **kwargs)


def swap(function: Any, make: Make) -> Undo | None:
    """Give a plain Python function other code; None where it is not one.

    The function object stays the same: who imported it by name, stored it in a module or pickles
    it notices nothing, ``torch.compile`` finds it in its tables, and TorchScript compiles the
    original.
    """
    if not isinstance(function, types.FunctionType) or function.__closure__:
        return None
    if function.__code__ is _stand_in.__code__:
        return None
    original = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
    functools.update_wrapper(original, function)
    del original.__wrapped__  # type: ignore[attr-defined]
    original.__kwdefaults__ = function.__kwdefaults__
    through, stop = _gate(original, make)
    function.__code__ = _stand_in.__code__
    function.__defaults__ = None
    function.__kwdefaults__ = {"_through": through}
    function.__wrapped__ = original  # type: ignore[attr-defined]
    function.__prepare_scriptable__ = lambda: original  # type: ignore[attr-defined]

    def undo() -> None:
        stop()
        if function.__code__ is _stand_in.__code__:
            function.__code__ = original.__code__
            function.__defaults__ = original.__defaults__
            function.__kwdefaults__ = original.__kwdefaults__
            del function.__wrapped__  # type: ignore[attr-defined]
            del function.__prepare_scriptable__  # type: ignore[attr-defined]

    return undo


def _gate(original: Any, make: Make) -> tuple[Any, Undo]:
    """The listening function, but the original inside ``torch.compile`` and after ``stop()``."""
    listening = make(original)
    active = True

    def through(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not active:
            return original(*args, **kwargs)
        return listening(*args, **kwargs)

    def stop() -> None:
        nonlocal active
        active = False

    return through, stop
