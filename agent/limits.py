"""What the training loop is told that an update must not exceed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lossguard.agent.divide import Divide
from lossguard.agent.history import MetricHistory
from lossguard.agent.incidents import Incident
from lossguard.detectors import Severity

_HARMLESS = 3
"""So many vetoes that were nothing, within ``_HARMLESS_STEPS``, widen the bounds."""
_HARMLESS_STEPS = 1000
_LOOKED_BACK = 32


class Limits:
    """Of one run: the bounds of its detectors, and for a while after a rollback the divide."""

    def __init__(self) -> None:
        self.now: dict[str, float] = {}
        """By metric, in force."""
        self.past: dict[str, MetricHistory] = {}
        """Of each metric that has a limit, what it was."""
        self.divide = Divide()
        self.widening = 1.0
        """How much wider the limits are than the detectors say."""

    def widen(self, incidents: Sequence[Incident], step: int) -> None:
        """Take note of what the vetoes so far turned out to be."""
        self.widening = _widening(incidents, step)

    def set(self, step: int, bounds: Mapping[str, float], *, waits: bool) -> bool:
        """From now on these; whether that is a change. ``waits``: bad data is being waited out."""
        now = dict(bounds)
        if (between := self.divide.bound(step, waits=waits)) is not None:
            now["loss"] = min(between, now.get("loss", math.inf))
        return self._change(step, now)

    def lift(self, step: int) -> bool:
        """From now on none at all; whether that is a change."""
        return self._change(step, {})

    def _change(self, step: int, now: dict[str, float]) -> bool:
        if now == self.now:
            return False
        self.now = now
        for metric, bound in now.items():
            self.past.setdefault(metric, MetricHistory()).add(step, bound)
        return True


def _widening(incidents: Sequence[Incident], step: int) -> float:
    """1, 4, 16 ...

    Vetoes that time and again turn out to be single harmless steps are a rare task or a rare
    kind of batch, which must not be kept from learning for ever.
    """
    harmless = sum(
        1
        for incident in incidents[-_LOOKED_BACK:]
        if incident.last_step > step - _HARMLESS_STEPS
        and not incident.is_open
        and incident.severity is not Severity.CRITICAL
        and any(action.action == "skip" for action in incident.actions)
    )
    return float(4 ** min(harmless // _HARMLESS, 8))
