"""The share of the last updates that were dropped."""

from __future__ import annotations

from collections import deque
from typing import Any


class SkipShare:
    """A window of yes and no, and the share of yes once it is full."""

    def __init__(self, window: int) -> None:
        self._flags: deque[int] = deque(maxlen=window)
        self._window = window
        self._sum = 0

    def push(self, skipped: bool) -> float:
        """Take in one update; the share, or 0 while the window is not full."""
        flags = self._flags
        if len(flags) == self._window:
            self._sum -= flags[0]
        flags.append(int(skipped))
        self._sum += skipped
        return self._sum / self._window if len(flags) == self._window else 0.0

    def state(self) -> list[Any]:
        """Plain data for ``restore``: the length and the places of the dropped ones."""
        return [len(self._flags), [i for i, flag in enumerate(self._flags) if flag]]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        length, places = state
        flags = [0] * length
        for i in places:
            flags[i] = 1
        self._flags = deque(flags, maxlen=self._window)
        self._sum = len(places)
