"""Waiting for a thing rather than for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 60.0
"""Far more than anything takes; a test that waits so long has failed."""

T = TypeVar("T")


def eventually(look: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
    """What ``look`` returns as soon as that is true; AssertionError with the last one after."""
    deadline = time.monotonic() + patience_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {patience_s:g} s: the last look gave {seen!r}")
        time.sleep(0.01)


def becomes(look: Callable[[], T], expected: T, patience_s: float = PATIENCE_S) -> None:
    """Until ``look`` returns ``expected``; AssertionError with what it returned last after."""
    deadline = time.monotonic() + patience_s
    while (seen := look()) != expected:
        if time.monotonic() >= deadline:
            raise AssertionError(f"not {expected!r} within {patience_s:g} s but {seen!r}")
        time.sleep(0.01)
