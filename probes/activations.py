"""Size of what the watched modules put out: one reduction each, which a NaN or Inf survives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lossguard.probes.pieces import FLOATS, is_measurable

Hook = Callable[[nn.Module, Any, Any], None]


class ActivationNorms:
    """L2 norm of each watched module's output in training forwards.

    Cost per module and forward: one ``vector_norm`` in float32, no synchronisation. With
    several forwards a step (gradient accumulation) the largest RMS stands, and NaN wins.
    Divided by the square root of the number of elements, which the host knows, it is the RMS.
    Inside ``torch.compile`` a hook does nothing, so that the graph stays whole.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = list(modules)
        self._norms: list[Tensor | None] = [None] * len(modules)
        self._sizes = [1.0] * len(modules)

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """What is to be called after a forward of which module."""
        return [(module, self._hook(i)) for i, module in enumerate(self._modules)]

    def _hook(self, index: int) -> Hook:
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            if torch.compiler.is_compiling() or not torch.is_grad_enabled():
                return
            tensor = _first_tensor(output)
            if tensor is None:
                return
            wide = None if tensor.dtype is torch.float64 else torch.float32
            norm = torch.linalg.vector_norm(tensor.detach(), dtype=wide)
            inverse_root = 1.0 / math.sqrt(tensor.numel())
            before = self._norms[index]
            if before is not None:
                if inverse_root != self._sizes[index]:  # what is compared are the RMS
                    before = before * (self._sizes[index] / inverse_root)
                norm = torch.maximum(before, norm)
            self._norms[index] = norm
            self._sizes[index] = inverse_root

        return measure

    def take(self) -> tuple[list[Tensor | None], npt.NDArray[np.float32]]:
        """The norms since the last call (None: the module did not run) and 1/sqrt(elements)."""
        norms = self._norms
        self._norms = [None] * len(norms)
        return norms, np.array(self._sizes, dtype=np.float32)


def _first_tensor(output: Any) -> Tensor | None:
    """The (first) floating-point tensor of a module's output, in tuples, lists and dicts too."""
    if isinstance(output, Tensor):
        return output if _has_size(output) else None
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        for item in output:
            if isinstance(item, Tensor) and _has_size(item):
                return item
    return None


def _has_size(tensor: Tensor) -> bool:
    return is_measurable(tensor) and tensor.dtype in FLOATS
