"""CUDA events of ours, each on the stream of the device that it is about."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import torch

_there: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = threading.Lock()
_is_lost = False


def new_event(*, timing: bool = False) -> Any:
    """Not recorded yet. With ``timing`` the time between two of them can be told."""
    event = torch.cuda.Event(enable_timing=timing)
    with _lock:
        _there.add(event)
        if _is_lost:
            _keep(event)
    return event


def record_on(event: Any, device: torch.device) -> None:
    """Behind what is queued on that device's current stream, whatever the current device is."""
    event.record(torch.cuda.current_stream(device))


class Mark:
    """Events of one moment, one a device."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._events: list[Any] = []
        for device in devices:
            self._events.append(new_event(timing=True))
            record_on(self._events[-1], device)

    def query(self) -> bool:
        """Whether all devices have come to it. RuntimeError where one is lost."""
        return all(event.query() for event in self._events)

    def synchronize(self) -> None:
        """Waits for all."""
        for event in self._events:
            event.synchronize()

    def elapsed_time(self, later: Mark) -> float:
        """Until that one, on the device on which it took longest [ms]."""
        pairs = zip(self._events, later._events, strict=True)
        return max(float(begun.elapsed_time(done)) for begun, done in pairs)


def destroy_no_more() -> None:
    """The device is lost, a kernel has failed: each event that is destroyed from now on would be a
    warning on stderr, on top of the script's own error."""
    global _is_lost
    with _lock:
        if not _is_lost:
            _is_lost = True
            for event in list(_there):
                _keep(event)


def notice_loss(devices: Iterable[torch.device]) -> None:
    """Before events are let go: whether the device still answers. Never waits."""
    try:
        for device in devices:
            torch.cuda.current_stream(device).query()
    except RuntimeError:
        destroy_no_more()


def _keep(event: Any) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(event))
