"""What is remembered of the batches that were out of range."""

from __future__ import annotations

from collections import deque
from typing import Any

from lossguard.detectors.rewinding import Inputs

HELD = 32
_NOTES = 3
_LIKE = 1.1
"""Values up to this multiple of those noted are the like of them."""
_OFTEN = 4
_OFTEN_WITHIN = 64


class OddBatches:
    """Tells when odd batches are so many in a row, or come so often, that they are usual.

    And which values of a metric were noted already: after three notes the like of them is not
    worth another.
    """

    def __init__(self, num_metrics: int) -> None:
        self._batches = 0
        self._held: deque[tuple[int, Inputs]] = deque(maxlen=HELD)
        self._starts: deque[int] = deque(maxlen=_OFTEN)
        self._noted: list[list[float]] = [[] for _ in range(num_metrics)]
        self.row = 0
        """Odd batches in a row."""

    def count(self) -> None:
        """Another batch."""
        self._batches += 1

    def hold(self, values: Inputs) -> None:
        """An odd one, which is kept out of the range for now."""
        self.row += 1
        self._held.append((self._batches, values))

    def is_often(self) -> bool:
        """An episode begins: whether it is the fourth within 64 batches."""
        self._starts.append(self._batches)
        return len(self._starts) == _OFTEN and self._batches - self._starts[0] < _OFTEN_WITHIN

    def is_news(self, i: int, value: float, *, begins: bool) -> bool:
        """Whether a note on a value of the i-th metric says something new."""
        noted = self._noted[i]
        if len(noted) == _NOTES and value <= _LIKE * max(noted):
            return False
        if begins:
            self._noted[i] = [*noted, value][-_NOTES:]
        return True

    def take(self) -> list[Inputs]:
        """The odd batches of late, which are usual from now on."""
        late = [held for at, held in self._held if self._batches - at < _OFTEN_WITHIN]
        self._held.clear()
        self.row = 0
        return late

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {
            "held": [[at, list(held)] for at, held in self._held],
            "starts": list(self._starts),
            "noted": [list(noted) for noted in self._noted],
            "numbers": [self._batches, self.row],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._held = deque(((at, tuple(held)) for at, held in state["held"]), maxlen=HELD)
        self._starts = deque(state["starts"], maxlen=_OFTEN)
        self._noted = [list(noted) for noted in state["noted"]]
        self._batches, self.row = state["numbers"]
