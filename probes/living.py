"""The loops of this process, and what becomes of them at its end and in its children."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Literal, Protocol

from lossguard.probes import leaving

Reason = Literal["finished", "exception", "closed", "stopped"]


class Living(Protocol):
    """What can end."""

    run: str

    @property
    def is_alive(self) -> bool: ...
    def close(self, reason: Reason) -> None: ...
    def disable(self) -> None: ...


LOOPS: weakref.WeakSet[Living] = weakref.WeakSet()


def loops_alive() -> list[Living]:
    """Those that are watched, and not only inherited by a fork."""
    return [loop for loop in list(LOOPS) if loop.is_alive]


def _close_at_exit() -> None:
    reason: Reason = "finished"
    if getattr(sys, "last_type", None) is not None or leaving.exit_code_of_script:
        reason = "exception"
    for loop in list(LOOPS):
        loop.close(reason)


def _disable_in_child() -> None:
    for loop in list(LOOPS):
        loop.disable()


os.register_at_fork(after_in_child=_disable_in_child)
atexit.register(_close_at_exit)
