"""The optimizers of one loop: those that one ``backward()`` feeds, and whose turn it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer

from lossguard.probes.last_resort import contained

Hook: TypeAlias = Callable[[Any, Any, Any], Any]


class Members:
    """Hooks around the ``step()`` of each, and the step of the loop that theirs make up.

    A step of the loop begins with the first optimizer that steps on new gradients, or that steps
    for the second time. It is complete when all have stepped that stepped the time before.
    """

    def __init__(self, optimizers: list[Optimizer], before: Hook, after: Hook) -> None:
        self._optimizers = optimizers
        self._before = before
        self._after = after
        self._handles: dict[int, list[torch.utils.hooks.RemovableHandle]] = {}
        self._stepped: list[int] = []
        self._last_time: set[int] = set()
        self.new_gradients = False
        """Set when a ``backward()`` has reached the parameters."""

    def __contains__(self, optimizer: object) -> bool:
        return any(optimizer is member for member in self._optimizers)

    def __bool__(self) -> bool:
        return bool(self._optimizers)

    def open(self) -> None:
        """Hook all that are there."""
        for optimizer in self._optimizers:
            self._hook(optimizer)

    def add(self, optimizer: Optimizer) -> None:
        """One more."""
        self._optimizers.append(optimizer)
        self._hook(optimizer)

    def drop(self, optimizer: Optimizer) -> None:
        """It steps no more for this loop; nothing of ours keeps it alive."""
        for handle in self._handles.pop(id(optimizer), ()):
            handle.remove()
        self._optimizers[:] = [member for member in self._optimizers if member is not optimizer]
        self._stepped = [key for key in self._stepped if key != id(optimizer)]
        self._last_time.discard(id(optimizer))

    def close(self) -> None:
        """Remove every hook. Idempotent."""
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles = {}

    def _hook(self, optimizer: Optimizer) -> None:
        # A script may compile `optimizer.step()`: the hooks run around its graph, not inside.
        handles = [
            optimizer.register_step_pre_hook(torch.compiler.disable(contained(self._before))),
            optimizer.register_step_post_hook(torch.compiler.disable(contained(self._after))),
        ]
        self._handles[id(optimizer)] = handles
        # What a veto holds back is given back before anybody else looks at it.
        hooks = getattr(optimizer, "_optimizer_step_post_hooks", None)
        if isinstance(hooks, OrderedDict):
            hooks.move_to_end(handles[1].id, last=False)

    def begins(self, optimizer: Optimizer) -> bool:
        """``optimizer`` steps now: whether a step of the loop begins with it."""
        key = id(optimizer)
        if self._stepped and not self.new_gradients and key not in self._stepped:
            self._stepped.append(key)
            return False
        self.new_gradients = False
        self._last_time, self._stepped = set(self._stepped), [key]
        return True

    def is_complete(self) -> bool:
        """Whether all have stepped that are expected to."""
        stepped = set(self._stepped)
        if not self._last_time:
            return len(stepped) == len(self._optimizers)
        return self._last_time <= stepped
