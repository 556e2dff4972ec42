"""How the time of a step divides: forward, backward, update, evaluation, saving."""

from __future__ import annotations

import time

NAMES = ("forward_time", "backward_time", "optimizer_time", "eval_time", "checkpoint_time")

_clock = time.perf_counter


class Phases:
    """Adds up the phases between two optimizer steps by the host's clock [s].

    Nothing waits for a device: on an accelerator it is the time to queue the work, or to wait for
    what was queued before. A phase that nothing ends does not count. A clock call each.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self.moves = 0
        """Grows with whatever is heard: a loop that does anything at all does not stand still."""

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation has begun, and no training forward since."""
        return "eval_time" in self._since

    def begin(self, name: str) -> None:
        """If it has not begun already."""
        self.moves += 1
        if name not in self._since:
            self._since[name] = _clock()

    def end(self, name: str) -> None:
        """If it has begun."""
        since = self._since.pop(name, None)
        if since is not None:
            self.add(name, _clock() - since)

    def add(self, name: str, seconds: float) -> None:
        """Of a phase that was timed elsewhere."""
        self.moves += 1
        self._taken[name] = self._taken.get(name, 0.0) + seconds

    def forward_begins(self, training: bool) -> None:
        """A training forward ends an evaluation."""
        if training:
            self.end("eval_time")
            self.begin("forward_time")
        else:
            self.begin("eval_time")

    def backward_begins(self) -> None:
        """From the first forward to here it was forward, the loss included."""
        self.end("forward_time")
        self.begin("backward_time")

    def take(self) -> dict[str, float]:
        """What has ended since the last call; what goes on belongs to the next."""
        taken, self._taken = self._taken, {}
        return taken
