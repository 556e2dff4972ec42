"""Whether the replicas of a model are still the same, bit for bit: one number that tells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossguard.probes.sharded import is_distributed, is_whole, local_part

_PRIME = 16_777_213
"""The largest below 2**24: a float32 carries every remainder exactly. No power of two below 2**200
leaves 1 or -1, so that one flipped bit never leaves 0."""
_LANES = {8: torch.int32, 4: torch.int32, 2: torch.int16, 1: torch.int8}
"""By bytes of an element: what its bits are read as."""


class WeightChecksum:
    """A number below 2**24 of all weights that every rank has whole; any flipped bit changes it.

    The bits of a tensor are read as integers and added up in their own width, where an overflow
    wraps around and the order does not matter: nothing is copied, whatever the size. The sums times
    1, 2, 3, ... add up to the number, modulo a prime. Two errors at once go unseen in 1 of 16
    million cases. Costs one reduction a tensor, five operations more, and no read.

    Buffers are left out: the running statistics of batch norm differ between healthy replicas.
    """

    def __init__(self, parameters: Sequence[Tensor], device: torch.device) -> None:
        self._parameters = [p for p in parameters if _has_plain_bits(p)]
        self._device = device
        self._places = torch.arange(1, len(self._parameters) + 1, device=device)

    @torch.no_grad()
    def measure(self) -> Tensor | None:
        """0-d float32 on the device; None where no weight is whole."""
        if not self._parameters:
            return None
        sums = [_sum_of_bits(local_part(p).detach()) for p in self._parameters]
        if any(s.dtype is not torch.int32 or s.device != self._device for s in sums):
            sums = [s.to(self._device, torch.int32, non_blocking=True) for s in sums]
        weighted = torch.stack(sums).long().mul_(self._places)
        return weighted.sum().remainder(_PRIME).to(torch.float32)


def _has_plain_bits(tensor: Tensor) -> bool:
    """Not those of a subclass that packs its numbers otherwise."""
    is_known = type(tensor) in (Tensor, torch.nn.Parameter) or is_distributed(tensor)
    return is_known and tensor.layout is torch.strided and is_whole(tensor)


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """0-d, of the integer type that the bits are read as."""
    lane = _LANES.get(tensor.element_size())
    if lane is None or (tensor.element_size() == 8 and not tensor.is_contiguous()):
        # Complex numbers of 16 bytes, doubles that lie scattered: their halves have to be split.
        tensor, lane = tensor.contiguous(), torch.int32
    if tensor.dim() == 0:
        tensor = tensor.reshape(1)
    return tensor.view(lane).sum(dtype=lane)
