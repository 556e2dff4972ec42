"""When the state of a run is kept for the next agent."""

from __future__ import annotations

import time

from lossguard.agent.ranks_present import RanksPresent
from lossguard.agent.run import Run
from lossguard.agent.store import Store
from lossguard.failpoints import reach

_SAVE_EVERY_S = 5.0


class Saving:
    """Of one run: every few seconds, where it has changed since. Times are monotonic [s]."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.saved_s = time.monotonic()
        self._saved_version = 0

    def is_due(self, now: float, version: int) -> bool:
        """``version`` grows with every change."""
        return now - self.saved_s >= _SAVE_EVERY_S and version != self._saved_version

    def save(self, run: Run, ranks: RanksPresent, now: float, version: int) -> None:
        """Everything that cannot be asked again; what is too old goes."""
        self.saved_s, self._saved_version = now, version
        self._store.save_run(run.id, {**run.state(), **ranks.state()})
        reach("live.saved")
        self._store.prune(run.id, run.step)
