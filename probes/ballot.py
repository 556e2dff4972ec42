"""What a rank says in a vote, as numbers that are added up over all ranks.

Sums, for they tell all there is to ask: whether anybody vetoes, whether all hold the same
command, whether all are at the same step; and of a gradient that is cut over the ranks, the norm of
the whole.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import torch
from torch import Tensor

from lossguard.probes.wire import SKIP_GRAD_NORM, SKIP_SCALER

_BITS = (1.0, 2.0, 4.0, 8.0, 16.0)
_SCALER_BIT = _BITS.index(float(SKIP_SCALER))
_HOST = len(_BITS)
_COMMAND, _DUE, _WHERE, _BOUND, _SQUARE = range(_HOST, _HOST + 5)
_NO_BOUND = 1e300
"""Finite, for an Inf less an Inf would be NaN; no norm of float32 values reaches it."""


class Wish(NamedTuple):
    """What the host has to say. ``where`` is all that must be the same on every rank."""

    command: str = ""
    due: bool = False
    where: str = ""


class Agreed(NamedTuple):
    """What all ranks hold or want alike."""

    command: bool
    due: bool
    where: bool


class Ballot:
    """Makes votes and reads their sums, on one device. No method reads from it but ``agreed``."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._bits = torch.tensor(_BITS, dtype=torch.float64, device=device)
        self._norm_bit = (self._bits == SKIP_GRAD_NORM).to(self._bits)

    @torch.no_grad()
    def votes(
        self, code: Tensor | None, square: Tensor | None, bound: float | None, wish: Wish
    ) -> Tensor:
        """float64, on the device. ``code`` is the verdict of this rank, ``square`` its share of the
        squared norm of the whole gradient, where no rank has all of it."""
        zero = self._bits.new_zeros(1)
        objections = self._bits.new_zeros(_HOST)
        if code is not None:
            objections = torch.fmod(torch.floor(code.to(self._bits) / self._bits), 2.0)
        words = self._bits.new_zeros(_SQUARE)
        _at(words, _BOUND).fill_(_NO_BOUND if bound is None else min(bound, _NO_BOUND))
        _at(words, _WHERE).fill_(_digest(wish.where))
        if wish.command:
            _at(words, _COMMAND).fill_(_digest(wish.command))
        if wish.due:
            _at(words, _DUE).fill_(1.0)
        if square is not None:  # what is not finite has its bit already; a NaN would hide the rest
            zero = torch.nan_to_num(square.to(self._bits), 0.0, 0.0, 0.0).reshape(1)
        return torch.cat([objections, words.narrow(0, _HOST, _SQUARE - _HOST), zero])

    @torch.no_grad()
    def code(self, sums: Tensor) -> Tensor:
        """The verdict of all, in the wire's SKIP_ numbers (float32, 0-d, on the device): what any
        rank objects to, and a norm of the whole over the mean of the ranks' bounds.

        An overflow that GradScaler found on any rank is SKIP_SCALER alone.
        """
        objections = (sums.narrow(0, 0, _HOST) > 0).to(sums)
        over = _at(sums, _SQUARE).sqrt() > _at(sums, _BOUND) / self._size
        objections = torch.maximum(objections, over * self._norm_bit)
        code = torch.dot(objections, self._bits)
        overflow = _at(objections, _SCALER_BIT) * SKIP_SCALER
        return torch.where(overflow > 0, overflow, code).float()

    def agreed(self, sums: Tensor, wish: Wish) -> Agreed:
        """Reads the sums, which waits for the device if it has to."""
        found = sums.tolist()
        where = found[_WHERE] == self._size * _digest(wish.where)
        same = found[_COMMAND] == self._size * _digest(wish.command)
        return Agreed(
            command=where and bool(wish.command) and same,
            due=where and wish.due and found[_DUE] == self._size,
            where=where,
        )


def _at(votes: Tensor, place: int) -> Tensor:
    """One of them, 0-d: a view."""
    return votes.narrow(0, place, 1).reshape(())


def _digest(text: str) -> float:
    """32 bits, never 0: sums of them are exact for two million ranks."""
    return float(zlib.crc32(text.encode()) | 1)
