"""A step inside a step: an optimizer's class that calls the ``step()`` of its base."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch.optim.optimizer import Optimizer

_DEEPEST = 60


def is_nested(optimizer: Optimizer) -> bool:
    """Whether ``step()`` of this very optimizer is being called from within itself.

    torch runs the hooks of both then. Looks at the stack for torch's wrapper around ``step``:
    microseconds, and asked only where one step begins before another has ended.
    """
    file = Optimizer.profile_hook_step.__code__.co_filename
    frame: FrameType | None = sys._getframe(1)
    found = 0
    for _ in range(_DEEPEST):
        if frame is None:
            break
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename == file:
            args: Any = frame.f_locals.get("args") or (None,)
            found += args[0] is optimizer
        frame = frame.f_back
    return found > 1
