"""What is said beside the training when the agent is gone: once an outage, and when it is back."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("lossguard")

LATE_S = 10.0
"""An agent that has not been there yet is missed after this long [s]: one may be on its way."""


class Absence:
    """Belongs to the link's thread. Times are monotonic [s]."""

    def __init__(self, *, acts: bool) -> None:
        self._acts = acts
        self._since_s = time.monotonic()
        self._is_said = False

    def begins(self, heard_s: float, now: float) -> None:
        """There was an agent, and there has been no word from it since ``heard_s``."""
        self._since_s = heard_s
        self._say("no word from the lossguard agent for", now)

    def goes_on(self, now: float) -> None:
        """There is none. Where there never was one, it is missed after a while."""
        if now - self._since_s >= LATE_S:
            self._say("no lossguard agent has been there for", now)

    def ends(self, now: float) -> str:
        """There is one. What to note in the run's own log; empty where nobody was missed."""
        if not self._is_said:
            log.info("the lossguard agent is there")
            return ""
        self._is_said = False
        gone_s = now - self._since_s
        holds = "; bounds come from it again" if self._acts else ""
        log.warning(
            "the lossguard agent is back after %.0f s: training is watched%s", gone_s, holds
        )
        return f"no agent for {gone_s:.0f} s"

    def _say(self, what: str, now: float) -> None:
        if self._is_said:
            return
        self._is_said = True
        means = (
            "no rollback, no bounds on loss and gradient norm; an update that is not finite is "
            "still skipped"
            if self._acts
            else "nothing of it depends on the agent"
        )
        log.warning("%s %.0f s: training goes on, unwatched (%s)", what, now - self._since_s, means)
