"""What every module of a model is given and puts out, during one forward."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from lossguard.probes.pieces import FLOATS, absmax, is_measurable
from lossguard.probes.zoomed import Place

_MOST_PLACES = 4096


class Notes:
    """Three numbers a module that runs: largest input, largest output, norm of its weights."""

    def __init__(self, names: Mapping[nn.Module, str], device: torch.device) -> None:
        self._names = names
        self._thread = threading.get_ident()
        self._inputs: list[Tensor] = []
        self.no_value = torch.zeros((), device=device)
        self.places: list[Place] = []
        self.values: list[Tensor] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Every module of ours that runs in this thread is noted, in the order in which it ends."""
        before = everywhere.register_module_forward_pre_hook(self._begins)
        after = everywhere.register_module_forward_hook(self._ends)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _is_ours(self, module: nn.Module) -> bool:
        return threading.get_ident() == self._thread and module in self._names

    def _begins(self, module: nn.Module, args: Any) -> None:
        if self._is_ours(module):
            self._inputs.append(self._largest(args))

    def _ends(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._is_ours(module):
            return
        largest = self._inputs.pop()
        if len(self.places) >= _MOST_PLACES:
            return
        weights = [p for p in module.parameters(recurse=False) if p.is_floating_point()]
        norms = [p.detach().float().norm() for p in weights if is_measurable(p)]
        self.places.append(Place(self._names[module], type(module).__name__))
        self.values += [largest, self._largest(output), sum(norms, self.no_value)]

    def _largest(self, value: Any) -> Tensor:
        """Over all floating-point tensors in it, one level deep."""
        if isinstance(value, dict):
            value = list(value.values())
        inner: Sequence[Any] = value if isinstance(value, (tuple, list)) else [value]
        found = [
            absmax(t.detach()).to(self.no_value.device, torch.float32)
            for t in inner
            if isinstance(t, Tensor) and t.dtype in FLOATS and is_measurable(t)
        ]
        return torch.stack(found).amax() if found else self.no_value
