"""Lossguard watches a PyTorch training run, and saves it.

    import lossguard
    guard = lossguard.attach(model, optimizer)             # watch
    guard = lossguard.attach(model, optimizer, policy="guard")  # watch, skip, roll back

Nothing is imported until it is used, so that ``import lossguard`` in the agent, the
dashboard or a script costs nothing and never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossguard.errors import LossguardError, StopTraining
    from lossguard.probes.guard import Guard, attach
    from lossguard.probes.loading import load_snapshot

__version__ = "0.1.0"

_WHERE = {
    "attach": "lossguard.probes.guard",
    "Guard": "lossguard.probes.guard",
    "load_snapshot": "lossguard.probes.loading",
    "LossguardError": "lossguard.errors",
    "StopTraining": "lossguard.errors",
}

__all__ = ["attach", "Guard", "load_snapshot", "LossguardError", "StopTraining", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'lossguard' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
