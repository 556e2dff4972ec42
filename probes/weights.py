"""Size of the weights, and how far one update moves them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossguard.probes.gradients import norms_of
from lossguard.probes.parameters import evenly
from lossguard.probes.pieces import thinned
from lossguard.probes.sharded import local_part

_MOST = 64
_LOOKED_AT = 1 << 12


def watched_weights(parameters: Sequence[Tensor]) -> list[int]:
    """Which parameters have an update ratio: at most 64, in order.

    Weights (two dimensions and more) come before biases and gains, spread over the depth.
    """
    weights = [i for i, p in enumerate(parameters) if p.dim() >= 2]
    others = [i for i, p in enumerate(parameters) if p.dim() < 2]
    chosen = evenly(weights, _MOST)
    return sorted([*chosen, *evenly(others, _MOST - len(chosen))])


class Weights:
    """Norms of all weights, and the ratio of update to weight of up to 64.

    ``norms()`` costs one ``torch._foreach_norm`` and a stack. A ratio costs a copy of at most
    4,096 elements of each watched parameter, evenly spread (1 MiB for 64 of them in
    float32), from before the update until after it, and two foreach passes over them. Of a sharded
    parameter the local part counts. Nothing synchronises.
    """

    def __init__(self, parameters: Sequence[Tensor], missing: Tensor) -> None:
        self._parameters = list(parameters)
        self.watched = watched_weights(parameters)
        """Which parameters have a ratio."""
        self._watched = [parameters[i] for i in self.watched]
        self._missing = missing
        self._before: list[Tensor] = []
        self._ratios: Tensor | None = None

    @torch.no_grad()
    def norms(self) -> Tensor:
        """L2 norm of each parameter, float32, shape ``(n,)``."""
        local = [local_part(p) for p in self._parameters]
        return torch.stack(norms_of(local, self._missing.device))

    @torch.no_grad()
    def before_update(self) -> None:
        """Keep a copy of what is watched."""
        self._ratios = None
        self._before = list(torch._foreach_mul(self._thinned(), 1.0)) if self._watched else []

    @torch.no_grad()
    def after_update(self, skipped: Tensor | None) -> None:
        """Compare with the copy, if there is one. ``skipped`` (0-d) is not 0 where a fused kernel
        dropped the update: then nothing was measured, and so with weights that were all zero."""
        before, self._before = self._before, []
        if not before:
            return
        device = self._missing.device
        size = torch.stack(norms_of(before, device))
        moved = torch.stack(norms_of(torch._foreach_sub(self._thinned(), before), device))
        counts = size != 0
        if skipped is not None:
            counts = counts & (skipped.to(device) == 0)
        self._ratios = torch.where(counts, moved / size, self._missing)

    def forget(self) -> None:
        """The update did not come to its end."""
        self._before = []

    def take_ratios(self) -> Tensor | None:
        """Of the last update that was compared, float32, shape ``(watched,)``."""
        ratios, self._ratios = self._ratios, None
        return ratios

    def _thinned(self) -> list[Tensor]:
        return [thinned(local_part(p).detach(), _LOOKED_AT) for p in self._watched]
