"""How much is kept of runs that are over, and how much disk all of it may take."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lossguard.agent.live import LiveRun
from lossguard.agent.registry import Registry
from lossguard.agent.retention_settings import RetentionSettings

log = logging.getLogger(__name__)

_EVERY_S = 10.0
_LOOKED_AT_ONCE = 200
"""Files whose size is asked for in one tick."""
_DAY_S = 86400.0
_MIB = 1 << 20


class Retention:
    """Looks every ten seconds, and does a little at a time: the agent's loop calls ``tick``."""

    def __init__(
        self,
        settings: RetentionSettings,
        registry: Registry,
        incidents: Path,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = registry.store
        self._incidents = incidents
        self._clock = wall_clock
        self._sizes = _sizes(incidents)
        self._size = 0
        self._due_s = float("-inf")
        self._said = False

    def tick(self) -> None:
        """A few times a second. Milliseconds."""
        now = time.monotonic()
        if now < self._due_s:
            return
        looked_at = list(itertools.islice(self._sizes, _LOOKED_AT_ONCE))
        self._size += sum(looked_at)
        if len(looked_at) == _LOOKED_AT_ONCE:
            return
        size, self._size, self._sizes = self._size, 0, _sizes(self._incidents)
        self._forget_old()
        # While something is too large, the next look follows at once.
        if not self._make_room(size):
            self._due_s = now + _EVERY_S

    def _ended(self) -> list[tuple[float, LiveRun]]:
        """When each was heard of last [s since the epoch], oldest first."""
        heard = self._store.heard()
        over = [live for live in self._registry.runs.values() if live.is_over]
        timed = [(heard.get(live.hello.run, live.hello.started_s), live) for live in over]
        return sorted(timed, key=lambda one: one[0])

    def _forget_old(self) -> None:
        before = self._clock() - self._settings.days * _DAY_S
        for heard_s, live in self._ended():
            if heard_s < before:
                log.info("run %s was over %g days ago: forgotten",
                         live.hello.run, self._settings.days)  # fmt: skip
                self._registry.forget(live)

    def _make_room(self, incident_bytes: int) -> bool:
        """Whether something had to go."""
        most = self._settings.max_mib * _MIB
        if self._store.is_purging or self._store.num_bytes() + incident_bytes <= most:
            return self._store.is_purging
        ended = self._ended()
        if ended:
            oldest = ended[0][1]
            log.info("more than %d MiB are kept: run %s is forgotten",
                     self._settings.max_mib, oldest.hello.run)  # fmt: skip
            self._registry.forget(oldest)
            return True
        if not self._said:
            self._said = True
            log.warning("more than %d MiB are kept of runs that go on: their oldest steps and "
                        "incident folders go", self._settings.max_mib)  # fmt: skip
        for run in self._registry.runs:
            self._store.shorten(run)
        if incident_bytes > most // 2:
            _remove_oldest(self._incidents)
        return True


def _sizes(folder: Path) -> Iterator[int]:
    """Of every file below, one by one [B]."""
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(place, name)).st_size
            except OSError:
                yield 0


def _remove_oldest(folder: Path) -> None:
    try:
        oldest = min(folder.iterdir(), key=lambda one: one.lstat().st_mtime)
    except (OSError, ValueError):
        return
    shutil.rmtree(oldest, ignore_errors=True)
