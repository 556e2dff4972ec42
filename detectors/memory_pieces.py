"""Memory that a device's allocator holds and cannot use."""

from __future__ import annotations

from typing import Any

from lossguard.detectors.block_maxima import BlockMaxima
from lossguard.detectors.memory_trend import KEPT


class Pieces:
    """Counts the blocks in a row in which much more is reserved than allocated, and ever more.

    An early peak leaves a reservation that stays as it is: only one that has grown since counts.
    """

    def __init__(self, block: int) -> None:
        self._maxima = BlockMaxima(block, KEPT)
        self._row = 0

    def push(self, step: int, reserved: float) -> None:
        """Take in the reserved memory of a step [byte, > 0]."""
        self._maxima.push(step, reserved)

    @property
    def reserved(self) -> float:
        """The maximum of the latest block; 0 before there is one."""
        last = self._maxima.maxima(0, 1)
        return last[0] if last else 0.0

    def judge(self, allocated: float, *, over: float, least: float, growth: float) -> int:
        """Take in the allocated memory of a block; for how many blocks in a row it has been so.

        Reserved memory must be more than ``over`` times the allocated, more than ``least`` bytes
        and at least ``growth`` times its lowest remembered.
        """
        reserved = self.reserved
        much = reserved > over * allocated and reserved > least
        self._row = self._row + 1 if much and reserved >= growth * self._maxima.lowest() else 0
        return self._row

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [self._maxima.state(), self._row]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._maxima.restore(state[0])
        self._row = state[1]
