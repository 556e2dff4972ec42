"""Findings become incidents: opened, escalated, resolved, and one per cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lossguard.agent.feed import ActionLine, IncidentLine
from lossguard.detectors import Finding, Severity, Symptom

_NEAR_STEPS = 3
"""Findings this close in steps have one cause."""
_QUIET_STEPS = 20
"""After a rollback, or where nobody tells the end, this many steps of quiet end an incident."""
_MAX_CLOSED = 500
_MAX_ACTIONS = 200
_MAX_FINDINGS = 64
_LOOKED_AT = 50
"""Closed incidents that a finding is compared with, the newest."""

# What hits a run at once has one cause, and the symptom that stands first here is nearest to it.
# All else is slow, and each of it an incident of its own.
ACUTE = (
    Symptom.LR_JUMP,
    Symptom.BAD_BATCH,
    Symptom.NONFINITE,
    Symptom.DIVERGENCE,
    Symptom.OPTIMIZER_STATE,
    Symptom.EXPLODING_GRADIENT,
    Symptom.LOSS_SCALE,
    Symptom.GRAD_SPIKE,
    Symptom.LOSS_SPIKE,
)
ACUTE_KIND = "acute"
_CAUSES = (Symptom.LR_JUMP, Symptom.BAD_BATCH)
"""They give an incident its name though the harm they do is more severe than they are."""


def _telling(finding: Finding) -> tuple[bool, int, int]:
    place = ACUTE.index(finding.symptom) if finding.symptom in ACUTE else len(ACUTE)
    is_cause = finding.symptom in _CAUSES and finding.severity is not Severity.INFO
    return is_cause, finding.severity.rank, -place


def _kind(symptom: Symptom) -> str:
    """Findings of one kind, near to each other, are one incident."""
    return ACUTE_KIND if symptom in ACUTE else str(symptom)


class KeptIncident(IncidentLine, frozen=True, kw_only=True):
    """An incident as the database keeps it: for viewers, and all it takes to go on with it."""

    findings: tuple[Finding, ...] = ()
    last_step: int = 0
    quiet_until: int | None = None
    sealed: bool = False


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
    sealed: bool = False
    """Of a process before this one: its steps are other steps."""
    acked_s: float = 0.0
    """When somebody acknowledged it, by the wall clock [s]; 0: nobody has."""
    mutes: Mapping[str, float] = field(default_factory=dict)
    """The symptoms that are muted in its run, all incidents of the run look at the same."""

    @property
    def number(self) -> str:
        """What tells it from others of its run."""
        return self.id.rpartition(".")[2]

    @property
    def is_muted(self) -> bool:
        return str(self.lead.symptom) in self.mutes

    @property
    def calls_nobody(self) -> bool:
        """Whether a person has said that nobody is to be told of it again."""
        return bool(self.acked_s) or self.is_muted

    @property
    def lead(self) -> Finding:
        """The finding that names the incident: its cause, or the most severe, most telling one."""
        return max(self.findings.values(), key=_telling)

    @property
    def severity(self) -> Severity:
        """Of its most severe finding."""
        return max((f.severity for f in self.findings.values()), key=lambda s: s.rank)

    @property
    def kind(self) -> str:
        """What it can take in: findings of the same kind."""
        return _kind(self.lead.symptom)

    @property
    def is_acute(self) -> bool:
        """Whether it is of what hits a run at once, which a skip or a rollback is for."""
        return self.kind == ACUTE_KIND

    @property
    def onset_step(self) -> int:
        """Where the trouble began: the earliest onset among the most severe and the lead."""
        rank, lead = self.severity.rank, self.lead
        return min(
            f.onset_step for f in self.findings.values() if f.severity.rank == rank or f is lead
        )

    @property
    def is_open(self) -> bool:
        return self.resolved_step is None

    @property
    def is_active(self) -> bool:
        """Whether something of it goes on, as far as the detectors have said."""
        return any(finding.end_step is None for finding in self.findings.values())

    def add(self, finding: Finding) -> None:
        """Take in a finding; at most so many are kept, the oldest that are over go first."""
        self.findings[(finding.symptom, finding.onset_step)] = finding
        self.last_step = max(self.last_step, finding.end_step or finding.detected_step)
        if len(self.findings) > _MAX_FINDINGS:
            lead = self.lead
            over = [k for k, f in self.findings.items() if f.end_step is not None and f is not lead]
            del self.findings[next(iter(over), next(iter(self.findings)))]

    def be_quiet(self, step: int) -> None:
        """Quiet from this step on resolves it."""
        self.quiet_until = max(self.quiet_until or 0, step + _QUIET_STEPS)

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
            severity=str(self.severity),
            metric=lead.metric,
            onset_step=self.onset_step,
            detected_step=min(f.detected_step for f in self.findings.values()),
            end_step=self.resolved_step,
            score=lead.score,
            message=lead.message,
            also=sorted({str(f.symptom) for f in self.findings.values()} - {str(lead.symptom)}),
            # The answer to a command overtakes the measurement of the step it was carried out at.
            actions=sorted(self.actions, key=lambda a: (a.step, a.action != "skip")),
            where=lead.where,
            evidence=dict(lead.evidence),
            opened=self.opened_s,
            acked=self.acked_s,
            muted=self.is_muted,
        )

    def kept(self) -> KeptIncident:
        """As the database keeps it."""
        line = self.line()
        return KeptIncident(
            **{name: getattr(line, name) for name in line.__struct_fields__},
            findings=tuple(self.findings.values()),
            last_step=self.last_step,
            quiet_until=self.quiet_until,
            sealed=self.sealed,
        )


class Incidents:
    """All incidents of one run; closed ones are kept up to a limit."""

    def __init__(self, run: str, wall_clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = wall_clock
        self._all: list[Incident] = []
        self.count = 0
        self.mutes: dict[str, float] = {}
        """Symptoms that call nobody, and until when, by the wall clock [s]."""

    @property
    def all(self) -> list[Incident]:
        """Oldest first."""
        return list(self._all)

    @property
    def open(self) -> list[Incident]:
        return [incident for incident in self._all if incident.is_open]

    def find(self, incident_id: str) -> Incident | None:
        """By its id."""
        return next((one for one in self._all if one.id == incident_id), None)

    def take(self, finding: Finding) -> Incident | None:
        """Put a finding where it belongs; the incident it changed, or None (nothing new)."""
        key = (finding.symptom, finding.onset_step)
        for incident in self._candidates():
            if key in incident.findings:
                return self._update(incident, incident.findings[key], finding)
        if finding.end_step is not None:
            return None  # the end of something that was never opened, or was forgotten
        incident = self._same_cause(finding) or self._new()
        incident.add(finding)
        incident.resolved_step = None
        incident.quiet_until = None
        return incident

    def take_moment(self, finding: Finding) -> Incident:
        """Put where it belongs what lasted for one step, of which nobody will tell the end."""
        incident = self._same_cause(finding) or self._new()
        incident.add(replace(finding, end_step=finding.detected_step))
        incident.resolved_step = None
        if not incident.is_active:
            incident.be_quiet(finding.detected_step)
        return incident

    def _update(self, incident: Incident, before: Finding, finding: Finding) -> Incident | None:
        if finding.end_step is not None:
            # The end tells when, not what: keep the words of the finding at its worst.
            severity = max(before.severity, finding.severity, key=lambda s: s.rank)
            incident.add(replace(before, end_step=finding.end_step, severity=severity))
            if incident.is_open and not incident.is_active:
                incident.resolved_step = max(f.end_step or 0 for f in incident.findings.values())
                self._forget_old()
            return incident
        if finding.severity.rank < before.severity.rank:
            return None
        incident.add(finding)
        incident.resolved_step = None
        incident.quiet_until = None
        return incident

    def _same_cause(self, finding: Finding) -> Incident | None:
        """What is still open, or was about the steps where this finding dates its onset."""
        near = range(finding.onset_step - _NEAR_STEPS, finding.onset_step + _NEAR_STEPS + 1)
        kind = _kind(finding.symptom)
        for incident in self._candidates():
            if incident.kind != kind:
                continue
            first = min(f.onset_step for f in incident.findings.values())
            if incident.is_open or (first < near.stop and near.start <= incident.last_step):
                return incident
        return None

    def _candidates(self) -> list[Incident]:
        """Those that a finding may belong to, newest first."""
        return [incident for incident in reversed(self._all[-_LOOKED_AT:]) if not incident.sealed]

    def _new(self) -> Incident:
        self.count += 1
        incident = Incident(f"{self._run}.{self.count}", self._run, self._clock(), mutes=self.mutes)
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
            _end_all(incident, None, step)
        return self.open

    def end_mutes(self, now_s: float) -> bool:
        """Lift those whose time is over, by the wall clock [s]; whether there were any."""
        over = [symptom for symptom, until_s in self.mutes.items() if until_s <= now_s]
        for symptom in over:
            del self.mutes[symptom]
        return bool(over)

    def lose_sight(self, symptom: Symptom, step: int) -> None:
        """Nobody will tell the end of what was found of this symptom: quiet has to do."""
        for incident in self.open:
            _end_all(incident, symptom, step)

    def seal(self) -> None:
        """The steps begin anew: nothing that comes has to do with what was."""
        for incident in self._all:
            incident.sealed = True
            if incident.is_open:
                incident.resolved_step = incident.last_step

    def settle(self, step: int, *, at_once: bool = False) -> list[Incident]:
        """Resolve those whose quiet has lasted, or any quiet ones at once; the changed ones."""
        settled = []
        for incident in self.open:
            quiet = incident.quiet_until
            if quiet is not None and not incident.is_active and (at_once or step >= quiet):
                incident.resolved_step = quiet - _QUIET_STEPS
                incident.quiet_until = None
                settled.append(incident)
        if settled:
            self._forget_old()
        return settled

    def restore(self, kept: list[KeptIncident]) -> None:
        """Take up incidents written before a restart, oldest first."""
        for line in kept:
            incident = Incident(
                line.id,
                line.run,
                line.opened,
                actions=list(line.actions),
                acked_s=line.acked,
                mutes=self.mutes,
            )
            for finding in line.findings or [finding_of(line)]:
                incident.add(finding)
            incident.resolved_step = line.end_step if line.state == "resolved" else None
            incident.last_step = max(incident.last_step, line.last_step)
            incident.quiet_until = line.quiet_until
            incident.sealed = line.sealed
            if incident.is_open and not line.findings:
                _end_all(incident, None, incident.last_step)
            self._all.append(incident)
            number = line.id.rpartition(".")[2]
            self.count = max(self.count, int(number) if number.isdigit() else 0)


def _end_all(incident: Incident, symptom: Symptom | None, step: int) -> None:
    """End what goes on of a symptom, or of all; with nothing left, quiet resolves the incident."""
    for key, finding in incident.findings.items():
        if finding.end_step is None and symptom in (None, finding.symptom):
            incident.findings[key] = replace(finding, end_step=step)
    if not incident.is_active:
        incident.be_quiet(step)


def finding_of(line: IncidentLine) -> Finding:
    """The finding that an incident was named for, as far as the line tells."""
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
