"""Ranks that a person looks at in a debugger: said when it begins and when it ends, and no hang."""

from __future__ import annotations

_LASTS_S = 5.0
"""Shorter is no person: py-spy, which reads stacks, holds a process in the same way."""


class Debugged:
    """Of one run. Times are monotonic [s]."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._said: set[int] = set()

    def look(self, rank: int, who: str, place: str | None, now: float) -> str:
        """What is new: a sentence, or nothing. ``place`` is None where there is no debugger."""
        if place is None:
            self._since.pop(rank, None)
            if rank not in self._said:
                return ""
            self._said.discard(rank)
            return f"{who} is out of the debugger"
        since = self._since.setdefault(rank, now)
        if rank in self._said or now - since < _LASTS_S:
            return ""
        self._said.add(rank)
        return f"{who} is {place}: meanwhile nothing is called a hang"
