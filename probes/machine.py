"""What the training takes of the machine: memory, and the use of its device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import torch

log = logging.getLogger("lossguard")

_EVERY_S = 1.0


def _of_allocator(device: torch.device, *path: str) -> float:
    found: Any = torch.cuda.memory_stats_as_nested_dict(device)
    for key in path:
        found = found[key]
    return float(found)


_ASKED: dict[str, tuple[Callable[[torch.device], float], float]] = {
    "gpu_utilization": (lambda device: torch.cuda.utilization(device), 0.01),
    "gpu_temperature": (lambda device: torch.cuda.temperature(device), 1.0),
    "gpu_power": (lambda device: torch.cuda.power_draw(device), 1e-3),
    "memory_fragmented": (
        lambda device: _of_allocator(device, "inactive_split_bytes", "all", "current"), 1.0,
    ),
    "allocator_retries": (lambda device: _of_allocator(device, "num_alloc_retries"), 1.0),
}  # fmt: skip
"""Who is asked, and what its answer is multiplied by: shares, degrees Celsius, watts, bytes."""


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
        self._asked = dict(_ASKED) if device.type == "cuda" else {}
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
        for name, (ask, unit) in list(self._asked.items()):
            try:
                found[name] = ask(self._device) * unit
            except Exception:  # no NVML, or none for this device
                del self._asked[name]
        return found

    def take(self) -> dict[str, float]:
        """By metric; empty when there is nothing new since the last call."""
        fresh, self._fresh = self._fresh, {}
        return fresh
