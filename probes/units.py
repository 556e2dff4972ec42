"""Units that have stopped to work: shares of zeros and of saturated values, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lossguard.probes.parameters import evenly, plain_name
from lossguard.probes.pieces import FLOATS, is_measurable, sample
from lossguard.probes.transfer import Values

_MOST = 64
_LOOKED_AT = 1 << 14
_NEAR = 0.01

_EXACT_ZEROS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardshrink, nn.Softshrink)


def gives_zeros(module: nn.Module) -> bool:
    """Whether its output is exactly zero on a whole range of inputs.

    ``nn.LeakyReLU``, ``nn.GELU`` and their kind are not: they never put out an exact zero.
    """
    return isinstance(module, _EXACT_ZEROS) or (
        isinstance(module, nn.Threshold) and module.value == 0
    )


def ends_of(module: nn.Module) -> tuple[float, float] | None:
    """The ends of the range of a module that saturates; None for any other."""
    if isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)):
        return 0.0, 1.0
    if isinstance(module, (nn.Tanh, nn.Softsign)):
        return -1.0, 1.0
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):
        return float(module.min_val), float(module.max_val)
    return None


class UnitShares:
    """Shares of zero, or of saturated, outputs of up to 64 modules each, spread over the depth.

    Of the first training forward since the last ``take()``, on at most 16,384 outputs of each
    module, evenly spread: two small kernels for a share of zeros, three or four for a saturated
    one; no synchronisation. Activations applied as functions (``F.relu``) are not seen.
    """

    def __init__(self, model: nn.Module | None) -> None:
        named = list(model.named_modules()) if model is not None else []
        zeros = evenly([(n, m) for n, m in named if gives_zeros(m)], _MOST)
        ends = evenly([(n, m) for n, m in named if ends_of(m) is not None], _MOST)
        self.zero_names = [plain_name(name) for name, _ in zeros]
        self.saturated_names = [plain_name(name) for name, _ in ends]
        self._modules = [module for _, module in (*zeros, *ends)]
        self._counts: list[Tensor | None] = [None] * len(self._modules)
        self._sizes = [1] * len(self._modules)

    def hooks(self) -> list[tuple[nn.Module, Callable[..., None]]]:
        """What is to be called after a forward of which module."""
        return [(module, self._hook(i, module)) for i, module in enumerate(self._modules)]

    def _hook(self, index: int, module: nn.Module) -> Callable[..., None]:
        ends = ends_of(module)

        def measure(module: nn.Module, args: Any, output: Any) -> None:
            if not torch.is_grad_enabled() or self._counts[index] is not None:
                return
            if not is_measurable(output) or output.dtype not in FLOATS or _is_recorded():
                return
            values = sample(output.detach(), _LOOKED_AT)
            if ends is None:
                hit = values == 0
            else:
                centre, half = sum(ends) / 2, (ends[1] - ends[0]) / 2
                hit = (values - centre if centre else values).abs() > half - _NEAR
            self._counts[index] = hit.sum(dtype=torch.float32)
            self._sizes[index] = values.numel()

        return measure

    def take(self) -> tuple[list[Tensor | None], Values]:
        """How many were hit, zeros first (None: did not run), and 1 / (how many were looked at)."""
        counts, self._counts = self._counts, [None] * len(self._modules)
        return counts, np.array([1.0 / size for size in self._sizes], dtype=np.float32)


def _is_recorded() -> bool:
    """Inside selective activation checkpointing, which must see the same operations twice."""
    mode = _get_current_dispatch_mode()
    return mode is not None and type(mode).__name__.startswith("_Cach")
