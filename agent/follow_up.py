"""What follows when an incident of a live run changes."""

from __future__ import annotations

import time
from collections.abc import Callable

from lossguard.agent.attending import Attendant, Done
from lossguard.agent.incidents import Incident
from lossguard.agent.ranks_present import RanksPresent
from lossguard.agent.run import Run
from lossguard.agent.store import Store
from lossguard.failpoints import reach
from lossguard.probes import wire


class FollowUp:
    """It is written down, who listens is told, and its evidence is gathered, in this order."""

    def __init__(
        self,
        store: Store,
        ranks: RanksPresent,
        attendant: Attendant,
        hear: Callable[[Incident], None],
    ) -> None:
        self._store = store
        self._ranks = ranks
        self._attendant = attendant
        self._hear = hear

    def changed(self, incidents: list[Incident]) -> None:
        """These have."""
        for incident in incidents:
            self._store.put_incident(incident.kept())
            reach("live.incident_put")
            self._hear(incident)
            if self._attendant.keep(incident, self._ranks.hello):
                self._ask_for_evidence(incident)

    def _ask_for_evidence(self, incident: Incident) -> None:
        """What only the ranks have: batches and random states of the steps it is about."""
        line = incident.line()
        steps = [line.onset_step, line.detected_step]
        self._ranks.send_all(wire.Keep(run=incident.run, incident=incident.id, steps=steps))

    def did(self, run: Run, done: Done) -> None:
        """Something was done about one of ``run``."""
        if (found := run.incidents.find(done.incident)) is not None:
            found.did(done.action, run.step, done.result, time.time())
            self.changed([found])
