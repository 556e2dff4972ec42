"""Whether Adam's second moments still fit the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossguard.probes.parameters import evenly
from lossguard.probes.pieces import FLOATS, thinned
from lossguard.probes.sharded import local_part

_MOST = 16
_LOOKED_AT = 1 << 10
_TINY = 1e-30


class _Found(NamedTuple):
    """A parameter whose second moments are known: so many steps old, in so many elements."""

    place: int
    gradient: Tensor
    moment: Tensor
    beta: float
    step: Tensor | float

    @property
    def kind(self) -> tuple[float, bool]:
        return self.beta, isinstance(self.step, Tensor)


class SecondMoments:
    """RMS of gradient / sqrt(second moment, corrected for its bias), of the watched parameters.

    About 1 in health. Far above 1 the moments are out of date, and the next update is too large
    (Wortsman et al., 2023, "Stable and low-precision training", where it is RMS_t); near 0 a giant
    gradient has poisoned them, and the next thousand updates are too small. On at most 1,024
    elements of each, evenly spread: five foreach kernels and six small ones, nothing synchronises.
    Any optimizer counts that keeps ``exp_avg_sq`` and has two betas.
    """

    def __init__(self, parameters: Sequence[Tensor], among: Sequence[int], missing: Tensor) -> None:
        self.watched = evenly(among, _MOST)
        """Which parameters have a ratio: at most 16 of those ``among`` which to choose."""
        self._watched = [parameters[i] for i in self.watched]
        self._missing = missing

    @torch.no_grad()
    def measure(self, optimizers: Sequence[Optimizer]) -> Tensor | None:
        """Before the update. Float32, shape ``(watched,)``; None where nothing keeps such moments,
        or where the gradients still carry a loss scale."""
        homes = {id(p): (o, group) for o in optimizers for group in o.param_groups
                 for p in group["params"]}  # fmt: skip
        found: list[_Found] = []
        for i, parameter in enumerate(self._watched):
            optimizer, group = homes.get(id(parameter), (None, {}))
            if optimizer is None or getattr(optimizer, "grad_scale", None) is not None:
                continue
            one = self._find(i, parameter, optimizer.state.get(parameter, {}), group)
            # One kernel corrects them all, so that they have to be of one kind.
            if one is not None and (not found or one.kind == found[0].kind):
                found.append(one)
        return self._ratios(found) if found else None

    def _find(
        self, place: int, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> _Found | None:
        moment, betas, step = state.get("exp_avg_sq"), group.get("betas"), state.get("step")
        if not isinstance(moment, Tensor) or not isinstance(betas, (tuple, list)):
            return None
        if len(betas) != 2 or not isinstance(betas[1], float):
            return None
        if isinstance(step, Tensor) and step.device != self._missing.device:
            step = float(step) if step.is_cpu else None
        if not isinstance(step, (Tensor, int, float)) or (pair := _pair(parameter, moment)) is None:
            return None
        return _Found(place, *pair, betas[1], step)

    def _ratios(self, found: list[_Found]) -> Tensor:
        squares = torch._foreach_mul([f.gradient for f in found], [f.gradient for f in found])
        moments = torch._foreach_clamp_min([f.moment for f in found], _TINY)
        sums = torch._foreach_norm(torch._foreach_div(squares, moments), 1)
        beta, numbers = found[0].beta, [float(f.gradient.numel()) for f in found]
        steps = [f.step for f in found if isinstance(f.step, Tensor)]
        if not steps:
            corrections = [1.0 - beta**f.step for f in found if not isinstance(f.step, Tensor)]
            numbers = [n / c if c > 0.0 else n for n, c in zip(numbers, corrections, strict=True)]
        means = torch.stack(torch._foreach_div(sums, numbers)).to(self._missing.device)
        if steps:
            means = means * (1.0 - beta ** torch.stack(steps).to(torch.float32))
        ratios = means.sqrt()
        if len(found) == len(self._watched):
            return ratios
        each = [self._missing] * len(self._watched)
        for one, ratio in zip(found, ratios.unbind(), strict=True):
            each[one.place] = ratio
        return torch.stack(each)


def _pair(parameter: Tensor, moment: Tensor) -> tuple[Tensor, Tensor] | None:
    """The same elements of the gradient and its second moment, in float32."""
    if parameter.grad is None or parameter.grad.layout is not torch.strided:
        return None
    gradient, moment = local_part(parameter.grad).detach(), local_part(moment).detach()
    if gradient.shape != moment.shape or gradient.dtype not in FLOATS or gradient.numel() == 0:
        return None
    few = (thinned(gradient, _LOOKED_AT), thinned(moment, _LOOKED_AT))
    return few[0].to(torch.float32), few[1].to(torch.float32)
