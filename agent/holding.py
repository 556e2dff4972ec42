"""Who holds whom: of ranks that stand still together, the one that the others wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WAITING = ("collective", "backward")
"""Where ranks wait for each other: in a collective, or in the reductions of a backward."""


@dataclass(frozen=True, slots=True)
class Stand:
    """One rank: how far it is, what it is in, and whether that is a phase or a state."""

    step: int
    phase: str
    at: str

    @property
    def waits(self) -> bool:
        """Whether others may be what it waits for."""
        return self.phase in _WAITING

    @property
    def words(self) -> str:
        """``in data at loader.py:12 in read``."""
        place = f" at {self.at}" if self.at else ""
        return f"in {self.phase}{place}"


def holders(stands: Mapping[int, Stand]) -> tuple[int, ...]:
    """The ranks that hold the others up: those that wait for nobody, else those that are behind by
    steps. Empty where all are alike."""
    if len(stands) < 2:
        return ()
    free = tuple(sorted(rank for rank, stand in stands.items() if not stand.waits))
    if free and len(free) < len(stands):
        return free
    least, most = (f(stand.step for stand in stands.values()) for f in (min, max))
    if least == most:
        return ()
    return tuple(sorted(rank for rank, stand in stands.items() if stand.step == least))


def in_words(stands: Mapping[int, Stand]) -> str:
    """One sentence: where the only one is, or who holds whom."""
    if len(stands) == 1:
        return next(iter(stands.values())).words
    held_up_by = holders(stands)
    others = [rank for rank in sorted(stands) if rank not in held_up_by]
    if not held_up_by:
        first = stands[others[0]]
        return f"all {len(stands)} ranks stand still, rank {others[0]} {first.words}"
    by = "; ".join(f"rank {rank} is {stands[rank].words}" for rank in held_up_by)
    return f"{by}: {_ranks(others)} {'waits' if len(others) == 1 else 'wait'} for it"


def _ranks(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 8:
        return f"{len(numbers)} ranks"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
