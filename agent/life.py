"""Whether a run goes on, and how it ended."""

from __future__ import annotations

import msgspec

from lossguard.agent.feed import RunState
from lossguard.probes import wire

SILENT_AFTER_S = 5.0

_ENDS: dict[str, RunState] = {"exception": "failed", "stopped": "stopped"}


class Life:
    """Of one run. The silent may be there all the same; who died is not, as far as is seen."""

    def __init__(self) -> None:
        self.state: RunState = "running"
        self._farewell: wire.Bye | None = None

    @property
    def is_over(self) -> bool:
        return self.state not in ("running", "silent")

    def begin(self) -> None:
        """The first step of a process is still to come."""
        self._farewell = None

    def greeted(self, rank: int) -> None:
        """A rank says hello."""
        if rank == 0:
            self._farewell = None
        self.state = "running"

    def spoke(self) -> None:
        """A sign of life of any rank."""
        if self.state in ("silent", "died"):
            self.state = "running"

    def fall_silent(self) -> bool:
        """Nobody has spoken for ``SILENT_AFTER_S``; whether that is news."""
        is_news = self.state == "running"
        if is_news:
            self.state = "silent"
        return is_news

    def part(self, bye: wire.Bye, *, is_last: bool) -> None:
        """A rank has said goodbye: the first one's word counts, or that of the last to go."""
        if self._farewell is None and (bye.rank == 0 or is_last):
            self._farewell = bye

    @property
    def end(self) -> RunState | None:
        """How it ends as soon as all is judged; None while it goes on, or where that is told."""
        if self._farewell is None or self.is_over:
            return None
        return _ENDS.get(self._farewell.reason, "finished")

    def restore(self, state: str) -> None:
        """As the store knows it. Without a word from it, what goes on is silent."""
        self.state = msgspec.convert(state, RunState)
        if not self.is_over:
            self.state = "silent"
