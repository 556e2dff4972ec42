"""Which modules behave differently in training and in evaluation, and how they are set."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd


def depends_on_mode(module: nn.Module) -> bool:
    """Whether ``train()`` and ``eval()`` make a difference to this very module.

    Dropout with p > 0, alone or inside attention and recurrent modules; batch and instance norm
    with running statistics.
    """
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, _NormBase):
        return bool(module.track_running_stats)
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        dropout: Any = module.dropout
        return isinstance(dropout, (int, float)) and dropout > 0
    return False


class Modes:
    """Looks at the modules' ``training`` flags: host only, about 30 ns a module."""

    def __init__(self, model: nn.Module | None) -> None:
        modules = model.modules() if model is not None else ()
        self._modules = [module for module in modules if depends_on_mode(module)]

    def share_in_training(self) -> float | None:
        """Of the modules that depend on it; None where none does."""
        if not self._modules:
            return None
        return sum(module.training for module in self._modules) / len(self._modules)
