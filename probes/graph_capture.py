"""CUDA graphs: while one is captured nothing is measured, and nobody else may disturb it."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable

import torch

log = logging.getLogger("lossguard")

_THREAD_LOCAL = 1
"""``CU_STREAM_CAPTURE_MODE_THREAD_LOCAL``."""


def is_capturing() -> bool:
    """Whether what this thread queues now becomes part of a graph. Never initialises CUDA."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def is_capturing_on(device: torch.device) -> Callable[[], bool]:
    """What tells whether the work that is queued now becomes part of a graph. Less than a
    microsecond; it waits for nothing."""
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return lambda: False
    return torch.cuda.is_current_stream_capturing


def leave_captures_alone() -> None:
    """To be called once in a thread of ours, before it looks at an event.

    In the mode in which ``torch.cuda.graph`` captures, such a look from any thread of the process
    ends the capture with an error, unless that thread has said that it has nothing to do with it.
    """
    if not torch.cuda.is_initialized():
        return
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(ctypes.c_int(_THREAD_LOCAL)))
    except (OSError, AttributeError) as error:  # a device that only calls itself CUDA
        log.debug("the capture mode of this thread stays as it is: %s", error)
