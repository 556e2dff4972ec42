"""Every failpoint there is, read off the source: a new one is visited without being listed."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_REACH = re.compile(r'(?<!f)\breach\("([\w. -]+)"\)')
_SHIELDED = re.compile(r'(?:shield\.(?:call|timed|always)|_guarded)\(\s*"([\w -]+)"')
_TOLD = re.compile(r"tell\(listener\.(\w+)")


def _found(pattern: re.Pattern[str], folder: str) -> set[str]:
    files = sorted((_ROOT / folder).rglob("*.py"))
    return {name for file in files for name in pattern.findall(file.read_text())}


def agent_sites() -> list[str]:
    """In the agent."""
    return sorted(_found(_REACH, "agent"))


def link_sites() -> list[str]:
    """In the probe's own thread."""
    return sorted(name for name in _found(_REACH, "probes") if name.startswith("link."))


def loop_sites() -> list[str]:
    """In the training thread: every part behind the shield, and every function torch calls."""
    parts = {f"probe.{part}" for part in _found(_SHIELDED, "probes")}
    told = {f"entry.{name}" for name in _found(_TOLD, "probes")}
    edges = {name for name in _found(_REACH, "probes") if name.startswith("entry.")}
    return sorted(parts | told | edges | {"entry._before_step", "entry._after_step"})
