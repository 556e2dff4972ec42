"""How much is written down of what is refused over and over: the first few one by one, the others
as a count. So whoever is refused cannot push out of a bounded log what matters there."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 3600.0
ONE_BY_ONE = 10
"""So many of a kind within an hour."""

Kind = tuple[str, str]
"""Who was refused, and what."""


@dataclass
class _Window:
    """What was refused of one kind since ``begun_s``."""

    begun_s: float
    written: int = 0
    left_out: int = 0
    told: int = 0
    """So many of those that were left out have been told of."""


class Refusals:
    """Times are monotonic [s]."""

    def __init__(self) -> None:
        self._windows: dict[Kind, _Window] = {}

    def is_one_by_one(self, kind: Kind, now: float) -> bool:
        """Take in one more, and whether it is to be written down itself."""
        window = self._windows.setdefault(kind, _Window(now))
        if window.written < ONE_BY_ONE:
            window.written += 1
            return True
        window.left_out += 1
        return False

    def counts(self, now: float, *, is_end: bool = False) -> list[tuple[Kind, int]]:
        """How many more have been left out, of each kind of which it is time to tell: as it begins,
        when there are ten times as many as told so far, when the hour is over, and at the end."""
        found = []
        for kind, window in list(self._windows.items()):
            is_over = is_end or now - window.begun_s >= WINDOW_S
            untold = window.left_out - window.told
            if untold and (is_over or window.left_out >= 10 * window.told):
                found.append((kind, untold))
                window.told = window.left_out
            if is_over:
                del self._windows[kind]
        return found
