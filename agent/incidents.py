"""Findings become incidents: opened, escalated, resolved, and one per cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lossguard.agent.feed import ActionLine, IncidentLine
from lossguard.detectors import Finding, Severity, Symptom

_NEAR_STEPS = 3
"""Findings this close in steps have one cause."""
_QUIET_STEPS = 20
"""After a rollback, or without an end in sight, this many steps of quiet end an incident."""
_MAX_CLOSED = 500
_MAX_ACTIONS = 200

# Of findings of one cause and severity, the one that says most about the cause gives the name.
_TELLING = (Symptom.NONFINITE, Symptom.DIVERGENCE, Symptom.GRAD_SPIKE, Symptom.LOSS_SPIKE)


def _telling(finding: Finding) -> tuple[int, int]:
    return finding.severity.rank, -_TELLING.index(finding.symptom)


@dataclass
class Incident:
    """One trouble of one run, with all that was found and done about it."""

    id: str
    run: str
    opened_s: float
    findings: dict[tuple[Symptom, int], Finding] = field(default_factory=dict)
    actions: list[ActionLine] = field(default_factory=list)
    resolved_step: int | None = None
    last_step: int = 0
    quiet_until: int | None = None
    """Resolve at this step if nothing more is found."""

    @property
    def lead(self) -> Finding:
        """The finding that names the incident: the most severe, the most telling."""
        return max(self.findings.values(), key=_telling)

    @property
    def onset_step(self) -> int:
        """Where the trouble began: the earliest onset among the findings of the lead's rank."""
        rank = self.lead.severity.rank
        return min(f.onset_step for f in self.findings.values() if f.severity.rank == rank)

    @property
    def active_onset(self) -> int:
        """The earliest onset among what is critical and has not ended: go back to before it."""
        active = [
            f.onset_step
            for f in self.findings.values()
            if f.end_step is None and f.severity is Severity.CRITICAL
        ]
        return min(active, default=self.onset_step)

    @property
    def is_open(self) -> bool:
        return self.resolved_step is None

    def did(self, action: str, step: int, result: str, time_s: float) -> None:
        """Note what was done or tried; at most so many are kept."""
        if len(self.actions) < _MAX_ACTIONS:
            self.actions.append(ActionLine(action=action, step=step, result=result, time_s=time_s))

    def line(self) -> IncidentLine:
        """As viewers get it."""
        lead = self.lead
        return IncidentLine(
            id=self.id,
            run=self.run,
            state="open" if self.is_open else "resolved",
            symptom=str(lead.symptom),
            severity=str(lead.severity),
            metric=lead.metric,
            onset_step=self.onset_step,
            detected_step=min(f.detected_step for f in self.findings.values()),
            end_step=self.resolved_step,
            score=lead.score,
            message=lead.message,
            also=sorted({str(f.symptom) for f in self.findings.values()} - {str(lead.symptom)}),
            actions=list(self.actions),
            where=lead.where,
            evidence=dict(lead.evidence),
            opened=self.opened_s,
        )


class Incidents:
    """All incidents of one run; closed ones are kept up to a limit."""

    def __init__(self, run: str, wall_clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = wall_clock
        self._all: list[Incident] = []
        self.count = 0

    @property
    def all(self) -> list[Incident]:
        """Oldest first."""
        return list(self._all)

    @property
    def open(self) -> list[Incident]:
        return [incident for incident in self._all if incident.is_open]

    def take(self, finding: Finding) -> Incident | None:
        """Put a finding where it belongs; the incident it changed, or None (nothing new)."""
        key = (finding.symptom, finding.onset_step)
        for incident in reversed(self._all[-50:]):
            if key in incident.findings:
                return self._update(incident, key, finding)
        if finding.end_step is not None:
            return None  # the end of something that was never opened, or was forgotten
        incident = self._same_cause(finding) or self._new(finding)
        incident.findings[key] = finding
        incident.last_step = max(incident.last_step, finding.detected_step)
        incident.resolved_step = None
        incident.quiet_until = None
        return incident

    def _update(
        self, incident: Incident, key: tuple[Symptom, int], finding: Finding
    ) -> Incident | None:
        before = incident.findings[key]
        if finding.severity.rank < before.severity.rank and finding.end_step is None:
            return None
        severity = max(before.severity, finding.severity, key=lambda s: s.rank)
        if finding.end_step is not None:
            # The end tells when, not what: keep the words of the finding at its worst.
            finding = replace(before, end_step=finding.end_step)
        elif severity is not finding.severity:
            return None
        incident.findings[key] = finding
        incident.last_step = max(incident.last_step, finding.end_step or finding.detected_step)
        if all(f.end_step is not None for f in incident.findings.values()):
            incident.resolved_step = max(f.end_step or 0 for f in incident.findings.values())
            self._forget_old()
        return incident

    def _same_cause(self, finding: Finding) -> Incident | None:
        for incident in reversed(self._all[-50:]):
            last = incident.last_step if incident.resolved_step is not None else finding.onset_step
            first = min(f.onset_step for f in incident.findings.values())
            if first - _NEAR_STEPS <= finding.onset_step <= last + _NEAR_STEPS:
                return incident
        return None

    def _new(self, finding: Finding) -> Incident:
        self.count += 1
        incident = Incident(f"{self._run}.{self.count}", self._run, self._clock())
        self._all.append(incident)
        self._forget_old()
        return incident

    def _forget_old(self) -> None:
        closed = [incident for incident in self._all if not incident.is_open]
        for incident in closed[: max(0, len(closed) - _MAX_CLOSED)]:
            self._all.remove(incident)

    def rolled_back(self, step: int) -> list[Incident]:
        """A rollback undid what they are about: quiet from here on resolves them."""
        for incident in self.open:
            incident.quiet_until = step + _QUIET_STEPS
            for key, finding in incident.findings.items():
                if finding.end_step is None:
                    incident.findings[key] = replace(finding, end_step=step)
        return self.open

    def settle(self, step: int) -> list[Incident]:
        """Resolve those whose quiet has lasted; the changed ones."""
        settled = []
        for incident in self.open:
            if incident.quiet_until is not None and step >= incident.quiet_until:
                incident.resolved_step = incident.quiet_until - _QUIET_STEPS
                settled.append(incident)
        return settled

    def restore(self, lines: list[IncidentLine]) -> None:
        """Take up incidents written before a restart, oldest first."""
        for line in lines:
            incident = Incident(line.id, line.run, line.opened, actions=list(line.actions))
            finding = _finding_of(line)
            incident.findings[(finding.symptom, finding.onset_step)] = finding
            incident.resolved_step = line.end_step if line.state == "resolved" else None
            incident.last_step = line.end_step or line.detected_step
            if incident.is_open:
                incident.quiet_until = incident.last_step + _QUIET_STEPS
            self._all.append(incident)
            number = line.id.rpartition(".")[2]
            self.count = max(self.count, int(number) if number.isdigit() else 0)


def _finding_of(line: IncidentLine) -> Finding:
    return Finding(
        symptom=Symptom(line.symptom),
        severity=Severity(line.severity),
        metric=line.metric,
        onset_step=line.onset_step,
        detected_step=line.detected_step,
        score=line.score,
        message=line.message,
        end_step=line.end_step,
        where=line.where,
        evidence=line.evidence,
    )
