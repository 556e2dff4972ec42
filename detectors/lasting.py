"""A condition that holds in nearly all of the last looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from lossguard.detectors.change_point import onset_index

_BEGINS = 0.85
"""Share of the looks from which it holds."""
_ENDS = 0.25
"""Share of the looks at which it no longer does."""


class Lasting:
    """Turns a verdict that flickers into one that lasts.

    It begins when 85 % of the last ``size`` looks found it so, and ends when no more than a
    quarter did, whatever the distance between two looks.
    """

    def __init__(self, size: int) -> None:
        self._looks: deque[tuple[int, bool]] = deque(maxlen=size)
        self._since: int | None = None
        self.active = False

    def pass_by(self, step: int) -> None:
        """A step at which nobody looks, but which may be the one where it began."""
        if self._since is None:
            self._since = step

    def push(self, step: int, holds: bool) -> None:
        """Take in a look."""
        self._looks.append((step if self._since is None else self._since, holds))
        self._since = None
        count = sum(found for _, found in self._looks)
        size = self._looks.maxlen or 0
        least = _ENDS * size if self.active else _BEGINS * size
        self.active = count >= least and (self.active or len(self._looks) == size)

    def onset(self) -> int:
        """The first step that may have been the beginning. Needs at least one look."""
        found = [float(holds) for _, holds in self._looks]
        return self._looks[onset_index(found, 0.0, 0.5, 1.0)][0]

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "looks": [[step, holds] for step, holds in self._looks],
            "since": self._since,
            "active": self.active,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._looks = deque(
            ((step, holds) for step, holds in state["looks"]), maxlen=self._looks.maxlen
        )
        self._since = state["since"]
        self.active = state["active"]

    def clear(self) -> None:
        """Forget all looks."""
        self._looks.clear()
        self._since = None
        self.active = False
