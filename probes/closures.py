"""Optimizers that are stepped with a closure: they compute their gradients inside ``step()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def closure_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
    """The closure among the arguments of a step hook, where the optimizer comes first."""
    found = kwargs.get("closure", args[1] if len(args) > 1 else None)
    return found if callable(found) else None


def with_closure(args: tuple[Any, ...], kwargs: dict[str, Any], closure: Any) -> Arguments:
    """The same arguments with another closure."""
    if "closure" in kwargs:
        return args, {**kwargs, "closure": closure}
    return (args[0], closure, *args[2:]), kwargs


def evaluates_once(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is known to use the gradients of the closure's first call, and of no other."""
    module = type(optimizer).__module__
    known = module.startswith("torch.optim.")
    return known and not isinstance(optimizer, torch.optim.LBFGS)


class FirstCall:
    """A closure that tells when it has returned for the first time."""

    def __init__(self, closure: Callable[..., Any], then: Callable[[], None]) -> None:
        self._closure = closure
        self._then = then
        self.has_returned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._closure(*args, **kwargs)
        if not self.has_returned:
            self.has_returned = True
            self._then()
        return result
