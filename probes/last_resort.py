"""The outermost edge of what torch calls: no exception of ours goes through it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lossguard.failpoints import IS_SET, reach

log = logging.getLogger("lossguard")

_said: set[str] = set()


def tell(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``; None when it raised, which is said once. 0.1 us.

    The parts of the probe are shielded one by one; this is for what lies between them. An exit, or
    Ctrl-C, is not ours and passes.
    """
    try:
        result = function(*args)
        if IS_SET:
            reach(f"entry.{function.__name__}")
    except Exception as error:
        complain(function, error)
        return None
    return result


def contained(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for torch to call."""

    def called(*args: Any) -> Any:
        return tell(function, *args)

    return called


def complain(function: Callable[..., Any], error: Exception) -> None:
    """Say it, once for each place."""
    place = getattr(function, "__qualname__", repr(function))
    if place in _said:
        return
    _said.add(place)
    try:
        log.error("%s failed (%s: %s); training goes on", place, type(error).__name__, error)
    except Exception:
        log.debug("could not say it", exc_info=True)
