"""CUDA events of ours."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import torch

_there: weakref.WeakSet[Any] = weakref.WeakSet()


def new_event(*, timing: bool = False) -> Any:
    """Not recorded yet. With ``timing`` the time between two of them can be told."""
    event = torch.cuda.Event(enable_timing=timing)
    _there.add(event)
    return event


def destroy_no_more() -> None:
    """The device is lost, a kernel has failed: each event that is destroyed from now on would be a
    warning on stderr, on top of the script's own error."""
    for event in list(_there):
        _there.discard(event)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(event))
