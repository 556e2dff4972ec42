"""What the training takes of the machine: memory, and the use of its device."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

import psutil
import torch

log = logging.getLogger("lossguard")

_EVERY_S = 1.0


class Machine:
    """Looked at about once a second by the link's thread; the training thread takes what is new.

    Bytes as the allocator counts them (it asks the driver nothing), resident memory as the system
    does. The use of a GPU comes from ``torch.cuda.utilization``, where the NVML bindings are
    installed. CUDA is never initialised by us.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._looked_s = float("-inf")
        self._works = True
        self._has_utilization = device.type == "cuda"
        self._total = 0.0
        if device.type == "cuda":
            with suppress(Exception):
                self._total = float(torch.cuda.get_device_properties(device).total_memory)
        self._fresh: dict[str, float] = {}

    def look(self) -> None:
        """Measure, if it is time to. Never raises."""
        now = time.monotonic()
        if not self._works or now - self._looked_s < _EVERY_S:
            return
        self._looked_s = now
        try:
            self._fresh = {"rss": float(self._process.memory_info().rss), **self._device_memory()}
        except Exception as error:
            self._works = False
            log.error("the machine probe failed (%s: %s) and is off; training goes on",
                      type(error).__name__, error)  # fmt: skip

    def _device_memory(self) -> dict[str, float]:
        if self._device.type != "cuda" or not torch.cuda.is_initialized():
            return {}
        found = {
            "memory_allocated": float(torch.cuda.memory_allocated(self._device)),
            "memory_reserved": float(torch.cuda.memory_reserved(self._device)),
        }
        if self._total:
            found["memory_total"] = self._total
        if self._has_utilization:
            try:
                found["gpu_utilization"] = torch.cuda.utilization(self._device) / 100.0
            except Exception:  # no NVML, or none for this device
                self._has_utilization = False
        return found

    def take(self) -> dict[str, float]:
        """By metric; empty when there is nothing new since the last call."""
        fresh, self._fresh = self._fresh, {}
        return fresh
