"""One word on what a vote came to, for ranks that cannot know whether the others have heard it.

A collective may end on one rank and fail on another. So a result that has consequences counts only
once it stands in the run's own store; a rank for which the vote failed writes there that nothing
shall be done. Whoever writes first decides for all.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

_NOTHING = "-"
_PATIENCE = timedelta(seconds=5)


class Outcome(NamedTuple):
    """What a vote came to: the code of the veto, and the command that all hold."""

    code: int = 0
    command: str = ""


class Arbiter:
    """Entries of one vote group in a ``torch.distributed`` store. Each call is a round trip, under
    a millisecond, and is made only where something is to be done."""

    def __init__(self, store: Any, key: str) -> None:
        self._store = store
        self._key = key

    def settle(self, number: int, outcome: Outcome | None) -> Outcome | None:
        """What stands of vote ``number``; None where it came to nothing. Raises when the store is
        gone, and with it the run."""
        mine = _NOTHING if outcome is None else msgspec.json.encode(outcome).decode()
        stands = self._store.compare_set(f"{self._key}/vote/{number}", "", mine)
        if stands == _NOTHING.encode():
            return None
        return msgspec.json.decode(stands, type=Outcome)

    def publish(self, command: str, rank: int, words: str) -> None:
        """Say something about a command before voting for it."""
        self._store.set(f"{self._key}/command/{command}/{rank}", words)

    def read(self, command: str, size: int) -> list[str]:
        """What every rank has said, in their order. All have, when all have voted for it."""
        keys = [f"{self._key}/command/{command}/{rank}" for rank in range(size)]
        self._store.wait(keys, _PATIENCE)
        return [self._store.get(key).decode() for key in keys]
