"""The ranks of one step, brought together in time: rank 0's step waits for the others' parts."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from lossguard.agent.placement import Placement
from lossguard.agent.ranks_compared import RanksCompared
from lossguard.agent.ranks_whole import Parts, whole
from lossguard.detectors import Observation

PATIENCE_S = 2.0
_MOST_WAITING = 512
_MOST_KEPT = 512


class _Waiting(NamedTuple):
    observation: Observation
    placement: Placement
    ranks: set[int]
    """Whose parts it takes."""
    since_s: float


class RanksJoined:
    """Makes one observation a step out of those of all ranks, in the order of rank 0's.

    Nothing waits where no tensor is cut over ranks. A step waits two seconds at most, and behind at
    most 512 others: then what could not be put together is absent from it, and never a part in
    place of the whole. Memory is bounded by 512 steps a rank.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._waiting: deque[_Waiting] = deque()
        self._parts: dict[int, OrderedDict[int, Observation]] = {}
        self._newest: dict[int, int] = {}
        self._gone: set[int] = set()
        self._compared = RanksCompared(world_size) if world_size > 1 else None
        self.incomplete = 0
        """Steps that went on without the part of some rank."""

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def take(
        self, rank: int, placement: Placement, observation: Observation, now: float
    ) -> list[Observation]:
        """One step of one rank, at a monotonic time [s]; the steps that are ready by it."""
        if self._compared is not None:
            self._compared.note(rank, placement.cuts, observation)
        if rank == 0:
            ranks = placement.cuts.ranks(observation) - {0}
            self._waiting.append(_Waiting(observation, placement, ranks, now))
        elif placement.cuts.ranks(observation):
            parts = self._parts.setdefault(rank, OrderedDict())
            parts[observation.step] = observation
            while len(parts) > _MOST_KEPT:
                parts.popitem(last=False)
        if rank != 0:
            self._newest[rank] = observation.step
            self._gone.discard(rank)
        return self.ready(now)

    def leave(self, rank: int) -> None:
        """A rank has said goodbye: nothing more comes from it."""
        self._gone.add(rank)
        if self._compared is not None:
            self._compared.leave(rank)

    def ready(self, now: float) -> list[Observation]:
        """The steps that need not wait any longer."""
        found: list[Observation] = []
        while self._waiting:
            head = self._waiting[0]
            is_late = now - head.since_s >= PATIENCE_S or len(self._waiting) > _MOST_WAITING
            if not is_late and not self._is_complete(head):
                break
            joined = self._join(self._waiting.popleft())
            found.append(self._compared.beside(joined) if self._compared is not None else joined)
        return found

    def _is_complete(self, head: _Waiting) -> bool:
        """Steps of a rank come in order: one that is passed was lost."""
        return all(
            rank >= self._world_size
            or rank in self._gone
            or self._newest.get(rank, -1) >= head.observation.step
            for rank in head.ranks
        )

    def _join(self, head: _Waiting) -> Observation:
        step = head.observation.step
        nothing: OrderedDict[int, Observation] = OrderedDict()
        parts: Parts = {rank: self._parts.get(rank, nothing).get(step) for rank in head.ranks}
        for kept in self._parts.values():
            while kept and next(iter(kept)) < step:
                kept.popitem(last=False)
        self.incomplete += any(part is None for part in parts.values())
        return whole(head.observation, head.placement.cuts, parts)
