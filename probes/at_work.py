"""Whether the run that left something on disk is still being trained."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import psutil

_ELSEWHERE_S = 3600.0
"""A run of another host that wrote this lately may be at work: its process cannot be seen [s]."""


def is_at_work(about: Mapping[str, Any]) -> bool:
    """Whether another process of this machine is still training it."""
    pid = about.get("pid")
    if not isinstance(pid, int) or pid == os.getpid() or about.get("host") != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(pid).create_time() <= about.get("started_s", 0) + 1)
    except psutil.Error:
        return False


def may_be_at_work(about: Mapping[str, Any]) -> bool:
    """As ``is_at_work``; of another host's also where nobody here can tell."""
    elsewhere = about.get("host") not in (None, socket.gethostname())
    lately = time.time() - float(about.get("written_s", 0.0)) < _ELSEWHERE_S
    return (elsewhere and lately) or is_at_work(about)
