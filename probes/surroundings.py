"""What a run runs on and from: versions, devices, the commit of the script."""

from __future__ import annotations

import platform
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

import lossguard

_PACKAGES = ("numpy", "transformers", "lightning", "accelerate", "deepspeed", "triton")
_COMMIT = re.compile(r"[0-9a-f]{40,64}\Z")
_MOST_PARENTS = 12


def versions() -> dict[str, str]:
    """By name. Only of packages that are imported already; milliseconds, and no device is woken."""
    found = {
        "lossguard": lossguard.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
    }
    for name in _PACKAGES:
        if name in sys.modules:
            with suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
    if torch.cuda.is_initialized():
        with suppress(Exception):
            found["gpu"] = torch.cuda.get_device_name()
            found["cuda"] = str(torch.version.cuda)
    if commit := commit_of(Path(sys.argv[0] if sys.argv else ".")):
        found["commit"] = commit
    return found


def commit_of(script: Path) -> str:
    """The git commit that is checked out where a script lies; empty where there is none."""
    with suppress(OSError, ValueError, RuntimeError):
        folder = script.resolve().parent
        for parent in [folder, *folder.parents][:_MOST_PARENTS]:
            if (parent / ".git").exists():
                return _head_of(_git_folder(parent / ".git"))
    return ""


def _git_folder(entry: Path) -> Path:
    """The folder itself, or, of a worktree, the one that a file names."""
    if entry.is_dir():
        return entry
    named = Path(entry.read_text().partition("gitdir:")[2].strip())
    return named if named.is_absolute() else entry.parent / named


def _head_of(git: Path) -> str:
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head if _COMMIT.match(head) else ""
    name = head.partition(":")[2].strip()
    common = git / "commondir"
    base = (git / common.read_text().strip()) if common.exists() else git
    for place in (git / name, base / name):
        if place.is_file():
            commit = place.read_text().strip()
            return commit if _COMMIT.match(commit) else ""
    packed = base / "packed-refs"
    for line in packed.read_text().splitlines() if packed.is_file() else ():
        commit, _, ref = line.partition(" ")
        if ref == name and _COMMIT.match(commit):
            return commit
    return ""
