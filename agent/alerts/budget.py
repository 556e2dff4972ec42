"""How many messages there were about each run in the last hour, and how many were one too many."""

from __future__ import annotations

import msgspec

HOUR_S = 3600.0


class Spent(msgspec.Struct):
    """Of one run. Times are wall clock [s]."""

    times: list[float] = []
    held: int = 0
    held_since: float = 0.0

    def allows(self, most: int, now: float, num: int, *, is_critical: bool) -> bool:
        """Whether so many more may be sent now; they count as sent. What is critical may use the
        quarter that is kept for it."""
        self.times = [time for time in self.times if now - HOUR_S < time <= now]
        if len(self.times) + num > (most if is_critical else most - most // 4):
            return False
        self.times += [now] * num
        return True

    def hold(self, now: float) -> None:
        """One was not sent."""
        self.held_since = self.held_since if self.held else now
        self.held += 1

    def release(self, now: float, *, at_once: bool = False) -> int:
        """How many were held back, once the hour is over or at once; 0 before."""
        if not self.held or (now - self.held_since < HOUR_S and not at_once):
            return 0
        held, self.held = self.held, 0
        return held

    def is_idle(self, now: float) -> bool:
        """Whether there is nothing left to know."""
        return not self.held and all(now - time >= HOUR_S for time in self.times)


class Budget:
    """Of all runs."""

    def __init__(self, spent: dict[str, Spent], most: int) -> None:
        self._spent = spent
        self._most = most

    def allows(self, run: str, now: float, num: int, *, is_critical: bool) -> bool:
        """As ``Spent.allows``."""
        spent = self._spent.setdefault(run, Spent())
        return spent.allows(self._most, now, num, is_critical=is_critical)

    def hold(self, run: str, now: float) -> None:
        """One was not sent."""
        self._spent.setdefault(run, Spent()).hold(now)
