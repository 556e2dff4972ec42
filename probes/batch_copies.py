"""Copies in host memory of what one step was fed, within bounds."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossguard.probes.graph_capture import is_capturing
from lossguard.probes.tensors import to_host

_DEEPEST = 6
_MOST_THINGS = 4096
"""In a step: a list of a million numbers is no tensor, and would take half a second."""
_TOO_LARGE = "<too large, not kept>"
_PLAIN = (type(None), bool, int, float, complex)


class BatchCopies:
    """Takes copies, and counts them.

    ``make_room`` is told the bytes of all so far and answers whether they may be kept: once they
    may not, or there are more than 4096 things, nothing more is copied and all is ``too_large``.
    """

    def __init__(self, make_room: Callable[[int], bool]) -> None:
        self._make_room = make_room
        self._things = 0
        self.bytes = 0
        self.devices: set[torch.device] = set()
        """Those that some of them are on their way from."""
        self.too_large = False

    def of(self, value: Any) -> Any:
        """A copy; of what is no plain data its kind. Never raises, and runs no code of ``value``
        but that of a dict."""
        try:
            return self._copy(value, _DEEPEST) if self._takes(things=1) else _TOO_LARGE
        except Exception as error:  # a mapping that computes what it holds, a tensor of a new kind
            return f"<{type(value).__qualname__}, not kept: {type(error).__name__}>"

    def _copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, Tensor):
            return self._copy_of_tensor(value)
        if kind in _PLAIN or isinstance(value, np.number):
            return value
        if kind in (str, bytes):
            return value if self._takes(len(value)) else _TOO_LARGE
        if isinstance(value, np.ndarray):
            return self._copy_of_array(value)
        if depth and isinstance(value, (dict, UserDict, list, tuple)):
            return self._copy_of_many(value, depth - 1)
        return f"<{kind.__qualname__}, not kept>"

    def _copy_of_many(self, value: Any, depth: int) -> Any:
        if not self._takes(things=len(value)):
            return _TOO_LARGE
        if isinstance(value, (list, tuple)):
            return [self._copy(item, depth) for item in value]
        return {str(key): self._copy(item, depth) for key, item in value.items()}

    def _takes(self, size: int = 0, things: int = 0) -> bool:
        """Count it, and say whether there is room for it [bytes]."""
        self.bytes += size
        self._things += things
        if self._things > _MOST_THINGS or (size and not self._make_room(self.bytes)):
            self.too_large = True
        return not self.too_large

    def _copy_of_array(self, array: np.ndarray[Any, Any]) -> Any:
        if array.dtype.hasobject or array.dtype.names:
            return f"<ndarray of {array.dtype}, not kept>"
        return np.array(array) if self._takes(array.nbytes) else _TOO_LARGE

    def _copy_of_tensor(self, tensor: Tensor) -> Any:
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not plain or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            return f"<{type(tensor).__qualname__} on {tensor.device}, not kept>"
        if tensor.is_cuda and is_capturing():
            return f"<{type(tensor).__qualname__} of a captured graph, not kept>"
        if not self._takes(tensor.numel() * tensor.element_size()):
            return _TOO_LARGE
        self.devices.add(tensor.device)
        with torch.inference_mode(False), torch.no_grad():
            return to_host(tensor)
