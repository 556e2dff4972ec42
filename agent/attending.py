"""What is done when a run stops: the stacks are read, the evidence kept, the processes ended."""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lossguard.agent.evidence import STACKS, Evidence
from lossguard.agent.incidents import Incident
from lossguard.agent.stack_dump import StackDumps, Target
from lossguard.agent.standstill import HangBounds
from lossguard.agent.stops import Stops
from lossguard.detectors import Finding, Observation, Severity, Symptom
from lossguard.probes import wire

log = logging.getLogger(__name__)

_TEXTS = ("stacks", "flight_recorder")
"""Parts of an answer that are files, not words."""


@dataclass(frozen=True, slots=True)
class Done:
    """Something that was done about an incident."""

    incident: str
    action: str
    result: str


class Attendant:
    """Of one run. Nothing here waits, nothing here raises."""

    def __init__(self, run: str, folder: Path, bounds: HangBounds) -> None:
        self.stops = Stops(bounds)
        self._grace_s = bounds.grace_s
        self.evidence = Evidence(run, folder)
        self._dumps = StackDumps()
        self._kill_at_s: float | None = None
        self._stuck = ""
        self._ending = ""
        self._changed: dict[str, tuple[Incident, wire.Hello]] = {}

    def look(self, now: float, step: int) -> list[Finding]:
        """What has stopped since the last look, or goes on again."""
        return self.stops.look(now, step)

    def note(self, observation: Observation) -> None:
        """For the evidence of what may come."""
        self.evidence.note(observation)

    def keep(self, incident: Incident, hello: wire.Hello) -> bool:
        """Write down what is known of an incident that is worth a look: the first time at once, and
        what changes later when there is time, for it may change at every step. Whether it is new
        and more than its words was written."""
        if incident.severity is Severity.INFO:
            return False
        if self.evidence.has(incident.id):
            self._changed[incident.id] = (incident, hello)
            return False
        return self.evidence.write(incident.line(), hello)

    def _write_changes(self) -> None:
        changed, self._changed = self._changed, {}
        for incident, hello in changed.values():
            self.evidence.write(incident.line(), hello)

    def read_stacks(self, incident: Incident) -> None:
        """Of every process of the run on this host, the workers that load its data too."""
        self._stuck = incident.id
        path = self.evidence.folder_of(incident.id) / STACKS
        targets = []
        for rank, watched in sorted(self.stops.ranks.items()):
            if watched.state == "running":
                targets.append(Target(f"rank {rank}", watched.table.pid))
                targets += [
                    Target(f"rank {rank}, a process it has started", child.pid)
                    for child in watched.table.children()
                ]
        if targets:
            self._dumps.begin(incident.id, path, targets)

    def without_stacks(self, ack: wire.Ack) -> wire.Ack:
        """An answer with texts in it says where they lie instead: in the folder of what hangs."""
        texts = {key: ack.result[key] for key in _TEXTS if isinstance(ack.result.get(key), str)}
        if not texts:
            return ack
        folder = self.evidence.folder_of(self._stuck or f"{ack.run}.stacks")
        said: dict[str, float | int | str] = {**ack.result}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for key, text in texts.items():
                path = folder / f"{key}-rank{ack.rank}-step{ack.step}.txt"
                path.write_text(str(text), encoding="utf-8")
                said[key] = str(path)
        except OSError as error:
            return msgspec.structs.replace(ack, status="failed", result={"why": str(error)})
        return msgspec.structs.replace(ack, result=said)

    @property
    def has_ranks_to_ask(self) -> bool:
        """Whether ranks of a run of several can tell more than is seen from here: those on other
        hosts their stacks, all of them what NCCL has recorded."""
        return len(self.stops.ranks) > 1

    def keep_error(self, incident: Incident, text: str) -> None:
        """The traceback that a training ended with."""
        self.evidence.put(incident.id, "traceback.txt", text)

    def forget(self) -> None:
        """The run is no longer known: nothing of it stays on disk."""
        self.evidence.forget()

    def end_processes(self, incident: str) -> None:
        """SIGTERM to every rank on this host once its stacks are read; SIGKILL to what is left."""
        self._ending = incident

    def tick(self, now: float) -> list[Done]:
        """What has been done meanwhile. A few times a second."""
        self._write_changes()
        done = []
        for dumped in self._dumps.poll(now):
            said = f"done: {dumped.num_seen} processes, in {dumped.path}"
            failed = f"failed: {dumped.trouble}"
            done.append(Done(dumped.incident, "dump_stacks", said if dumped.num_seen else failed))
        if self._ending and self._kill_at_s is None and not self._dumps.is_busy:
            self._kill_at_s = now + self._grace_s
            sent = self._signal(signal.SIGTERM)
            done.append(Done(self._ending, "stop", f"done: SIGTERM to {sent} processes"))
        if self._kill_at_s is not None and now >= self._kill_at_s:
            if self._signal(signal.SIGKILL):
                told = f"done: SIGKILL, {self._grace_s:g} s after SIGTERM"
                done.append(Done(self._ending, "stop", told))
            self._kill_at_s, self._ending = None, ""
        return done

    def close(self) -> None:
        """The run is over."""
        self._write_changes()
        self._dumps.close()
        self.stops.close()

    def _signal(self, number: signal.Signals) -> int:
        sent = sum(watched.table.send(number) for watched in self.stops.ranks.values())
        log.warning("%s was sent to %d training processes", number.name, sent)
        return sent


def is_stuck(incident: Incident) -> bool:
    """Whether it is about a loop that obeys no orders now."""
    return any(
        finding.symptom is Symptom.HANG and finding.end_step is None
        for finding in incident.findings.values()
    )
