"""What came of something that a run was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from lossguard.agent.incidents import Incident
from lossguard.agent.ladder import Order
from lossguard.detectors import Finding


@dataclass
class Outcome:
    """What one observation led to."""

    findings: list[Finding] = field(default_factory=list)
    changed: dict[str, Incident] = field(default_factory=dict)
    """The incidents that changed, by id."""
    orders: list[Order] = field(default_factory=list)
    limits_changed: bool = False

    @property
    def incidents(self) -> list[Incident]:
        """Those that changed, each once."""
        return list(self.changed.values())

    def note(self, incident: Incident | None) -> None:
        """An incident changed, or none did."""
        if incident is not None:
            self.changed[incident.id] = incident
