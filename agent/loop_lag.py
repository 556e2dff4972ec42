"""How late the agent's loop comes to its regular work: what holds it up shows here."""

from __future__ import annotations

from collections import deque

_LOOKED_BACK_S = 60.0


class LoopLag:
    """Times are monotonic [s]."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last_s: float | None = None
        self._late: deque[tuple[float, float]] = deque()
        self.turns = 0

    def note(self, now: float) -> None:
        """The loop has come round; it means to ``every_s`` after the last time."""
        self.turns += 1
        if self._last_s is not None:
            self._late.append((now, max(0.0, now - self._last_s - self._every_s)))
        while self._late and now - self._late[0][0] > _LOOKED_BACK_S:
            self._late.popleft()
        self._last_s = now

    def worst_s(self, now: float) -> float:
        """By how much it was late at most, of the last minute [s]."""
        return max((late for at, late in self._late if now - at <= _LOOKED_BACK_S), default=0.0)
