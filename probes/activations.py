"""Size of what the watched modules put out: one reduction each, which a NaN or Inf survives, if it
is among what is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lossguard.probes.pieces import FLOATS, absmax, is_measurable, some_rows

Hook = Callable[[nn.Module, Any, Any], None]

_norm = torch.linalg.vector_norm
_MOST = 1 << 24
"""Elements of an output that are looked at: the logits of a language model are hundreds of
millions, and to read them all again is a percent of a step."""
_EXACT = (torch.float32, torch.float64)


class ActivationNorms:
    """L2 norm of each watched module's output in training forwards; sampled, its largest value.

    Of an output of more than 16 million elements so many are taken, in rows that are evenly spread.

    Cost per module and forward: one ``vector_norm`` in float32, no synchronisation; one or two
    kernels more at a step for which ``measure_absmax`` was set. With several forwards a step
    (gradient accumulation) the largest RMS stands, and NaN wins; the largest value is of the
    first. Divided by the square root of the number of elements, which the host knows, the norm
    is the RMS. Inside ``torch.compile`` a hook does nothing, so that the graph stays whole.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = list(modules)
        self._norms: list[Tensor | None] = [None] * len(modules)
        self._largest: list[Tensor | None] = [None] * len(modules)
        self._numbers = [1] * len(modules)
        self._scales: npt.NDArray[np.float32] | None = None
        self.measure_absmax = False

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """What is to be called after a forward of which module."""
        return [(module, self._hook(i)) for i, module in enumerate(self._modules)]

    def _hook(self, index: int) -> Hook:
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            if not torch.is_grad_enabled():
                return
            tensor = output if isinstance(output, Tensor) else _first_tensor(output)
            if tensor is None or tensor.dtype not in FLOATS or not is_measurable(tensor):
                return
            tensor = some_rows(tensor.detach(), _MOST)
            norm = _norm(tensor) if tensor.dtype in _EXACT else _norm(tensor, dtype=torch.float32)
            number = tensor.numel()
            before = self._norms[index]
            if before is not None:
                if number != self._numbers[index]:  # what is compared are the RMS
                    before = before * math.sqrt(number / self._numbers[index])
                norm = torch.maximum(before, norm)
            self._norms[index] = norm
            if number != self._numbers[index]:
                self._numbers[index] = number
                self._scales = None
            if self.measure_absmax and self._largest[index] is None:
                self._largest[index] = absmax(tensor)

        return measure

    def take(self) -> tuple[list[Tensor | None], npt.NDArray[np.float32]]:
        """The norms since the last call (None: the module did not run) and 1/sqrt(elements)."""
        norms = self._norms
        self._norms = [None] * len(norms)
        if self._scales is None:
            self._scales = (1.0 / np.sqrt(self._numbers)).astype(np.float32)
        return norms, self._scales

    def take_largest(self) -> list[Tensor | None]:
        """The largest absolute values since the last call; None where there is none."""
        largest = self._largest
        self._largest = [None] * len(largest)
        return largest


def _first_tensor(output: Any) -> Tensor | None:
    """The first floating-point tensor of what is not a tensor: tuples, lists and dicts."""
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        for item in output:
            if isinstance(item, Tensor) and item.dtype in FLOATS and is_measurable(item):
                return item
    return None
