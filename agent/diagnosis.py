"""What is found in a run becomes its incidents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lossguard.agent import vetoes
from lossguard.agent.incidents import Incident, Incidents
from lossguard.agent.outcome import Outcome
from lossguard.agent.zooms import Zooms
from lossguard.detectors import Finding, Observation
from lossguard.probes import wire


class Diagnosis:
    """Of one run: puts findings, vetoed updates and closer looks where they belong.

    ``tell(kind, step, message)`` takes a line for the log of the run; ``wall_clock`` only stamps.
    """

    def __init__(
        self,
        incidents: Incidents,
        tell: Callable[[str, int, str], None],
        wall_clock: Callable[[], float],
    ) -> None:
        self._incidents = incidents
        self._tell = tell
        self._clock = wall_clock
        self._zooms = Zooms()

    def take(self, findings: Iterable[Finding], outcome: Outcome) -> None:
        """What detectors found, with the module to blame where that is known."""
        for finding in map(self._zooms.located, findings):
            outcome.findings.append(finding)
            outcome.note(self._incidents.take(finding))

    def take_veto(self, observation: Observation, outcome: Outcome) -> bool:
        """A vetoed update is an action of an incident; one nobody else flagged opens its own.
        Whether it was vetoed."""
        code = vetoes.code_of(observation)
        if code <= 0 or code & wire.SKIP_SCALER:
            return False
        near = (*outcome.incidents, *reversed(self._incidents.open))
        incident = next((one for one in near if one.is_acute), None)
        if incident is None and (found := vetoes.finding_of(code, observation)) is not None:
            incident = self._incidents.take_moment(self._zooms.located(found))
        reason = vetoes.in_words(code)
        self._tell("skip", observation.step, f"update skipped: {reason}")
        if incident is not None:
            if incident.quiet_until is not None:
                incident.be_quiet(observation.step)
            incident.did("skip", observation.step, f"done: {reason}", self._clock())
            outcome.note(incident)
        return True

    def zoomed(
        self, step: int, words: str, data: Mapping[str, float | int | str]
    ) -> list[Incident]:
        """The probe has looked closer at a step that was not finite; the incidents this changed."""
        self._zooms.take(step, words, data)
        changed = []
        for incident in self._incidents.open:
            for finding in list(incident.findings.values()):
                if (located := self._zooms.located(finding)) is not finding:
                    incident.add(located)
                    changed.append(incident)
        return changed
