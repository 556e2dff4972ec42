"""One training run as the agent knows it: the path every observation takes, live and offline.

observation -> histories -> detectors -> incidents -> policy -> what to do. Nothing here reads a
clock, a socket or a disk; ``lossguard backtest`` drives the very same class from a file.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lossguard.agent import vetoes
from lossguard.agent.detector_settings import fresh
from lossguard.agent.divide import Divide
from lossguard.agent.feed import EventLine
from lossguard.agent.history import MetricHistory
from lossguard.agent.incidents import Incident, Incidents
from lossguard.agent.intake import shortened, words_of
from lossguard.agent.layer_history import LayerHistory
from lossguard.agent.policy import Advice, Judge, Order, Policy
from lossguard.agent.skip_storm import SkipStorm
from lossguard.agent.validation import ValidationWatch
from lossguard.agent.zooms import Zooms
from lossguard.detectors import Detector, Finding, Observation, Severity
from lossguard.probes import wire

log = logging.getLogger(__name__)

_CHARTED = 64
"""At most so many plain metrics have a history."""
_MAX_EVENTS = 500
_HARMLESS = 3
"""So many vetoes that were nothing, within ``_HARMLESS_STEPS``, widen the bounds."""
_HARMLESS_STEPS = 1000
_LOOKED_BACK = 32
_PROBATION = 64
"""Steps that must have passed without acute trouble until a step is proven good: what a slow
divergence needs to show."""
_PROVEN_EVERY = 16
_MAX_ROLLBACKS = 500


@dataclass
class Outcome:
    """What one observation led to."""

    findings: list[Finding] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    """Those that changed, each once."""
    orders: list[Order] = field(default_factory=list)
    limits_changed: bool = False


class Run:
    """State of one run. ``wall_clock`` only stamps incidents and events for people to read."""

    def __init__(
        self,
        run: str,
        policy: Policy,
        detectors: Sequence[Detector],
        wall_clock: Callable[[], float],
    ) -> None:
        self.id = run
        self._detectors = list(detectors)
        self._judge = Judge(policy)
        self._clock = wall_clock
        self.incidents = Incidents(run, wall_clock)
        self.histories: dict[str, MetricHistory] = {}
        self.bounds: dict[str, MetricHistory] = {}
        """Of each metric that has a bound, what it was."""
        self.layers = LayerHistory()
        self.events: deque[EventLine] = deque(maxlen=_MAX_EVENTS)
        self.last: dict[str, float] = {}
        self.limits: dict[str, float] = {}
        self.rollbacks: list[tuple[int, int]] = []
        self.step = 0
        self.applied = 0
        self.actions = 0
        self.proven_step = -1
        """The newest step that has proven good since (in steps of 16): it may be kept for good."""
        self._ignore_until = -1
        self._widening = 1.0
        self._broken: set[str] = set()
        self._zooms = Zooms()
        self._validation = ValidationWatch(run, policy.validation)
        self._divide = Divide()
        self._storm = SkipStorm(policy.max_skips_in_row, policy.max_skips, policy.window_steps)

    @property
    def policy(self) -> Policy:
        return self._judge.policy

    def observe(self, observation: Observation) -> Outcome:
        """Take in one step."""
        self.step = max(self.step, observation.step)
        if observation.applied >= 0:
            self.applied = observation.applied
        outcome = Outcome()
        self._chart(observation)
        self._divide.note(observation.step, observation.values.get("loss"))
        changed: dict[str, Incident] = {}
        if observation.step <= self._ignore_until:
            # It was measured before a rollback that we know of already. Its veto did happen.
            if (incident := self._note_skip(observation, changed)) is not None:
                outcome.incidents = [incident]
            return outcome
        self._take(self._ask_detectors(observation), outcome, changed)
        if (incident := self._note_skip(observation, changed)) is not None:
            changed[incident.id] = incident
        storm = self._storm.take(observation.step, vetoes.code_of(observation))
        self._take([storm] if storm is not None else [], outcome, changed)
        for incident in self.incidents.settle(observation.step):
            changed[incident.id] = incident
        if changed:
            self._widening = self._widen()
        for incident in changed.values():
            self._decide(incident, observation.step, outcome)
        if self.policy.acts and (loss := observation.values.get("val_loss")) is not None:
            outcome.orders += self._validation.take(observation.step, loss)
        acute = any(incident.is_acute for incident in self.incidents.open)
        if (word := self._judge.wait(observation.step, acute=acute)) is not None:
            self.tell("circuit_breaker", observation.step, word)
        outcome.incidents = list(changed.values())
        outcome.limits_changed = self._refresh_limits() | self._prove()
        return outcome

    def _take(
        self, findings: list[Finding], outcome: Outcome, changed: dict[str, Incident]
    ) -> None:
        for finding in map(self._zooms.located, findings):
            outcome.findings.append(finding)
            if (incident := self.incidents.take(finding)) is not None:
                changed[incident.id] = incident

    def _prove(self) -> bool:
        """Move ``proven_step`` on, up to the trouble that is open; whether it moved."""
        trouble = [
            incident.onset_step - 2
            for incident in self.incidents.open
            if incident.is_acute and incident.severity is not Severity.INFO
        ]
        newest = min([self.step - _PROBATION, *trouble])
        proven = newest - newest % _PROVEN_EVERY
        if proven <= self.proven_step:
            return False
        self.proven_step = proven
        return True

    def _chart(self, observation: Observation) -> None:
        for name, value in observation.values.items():
            history = self.histories.get(name)
            if history is None:
                if len(self.histories) >= _CHARTED:
                    continue
                history = self.histories[name] = MetricHistory()
            history.add(observation.step, value)
            self.last[name] = value
        self.layers.note(observation)

    def _ask_detectors(self, observation: Observation) -> list[Finding]:
        findings = []
        for detector in self._detectors:
            with self._contained(detector, observation.step):
                if (finding := detector.update(observation)) is not None:
                    findings.append(finding)
        return findings

    @contextmanager
    def _contained(self, detector: Detector, step: int) -> Iterator[None]:
        """A detector that raises is said once; all the rest goes on."""
        try:
            yield
        except Exception:
            if detector.symptom in self._broken:
                return
            self._broken.add(detector.symptom)
            log.exception("detector %s failed at step %d of %s; the others go on",
                          detector.symptom, step, self.id)  # fmt: skip
            self.tell("detector_failed", step, f"detector {detector.symptom} failed")

    def _note_skip(
        self, observation: Observation, changed: Mapping[str, Incident]
    ) -> Incident | None:
        """A vetoed update is an action of an incident; one nobody else flagged opens its own."""
        code = vetoes.code_of(observation)
        if code <= 0 or code & wire.SKIP_SCALER:
            return None
        incident = next((i for i in changed.values() if i.is_acute), None)
        if incident is None:
            incident = next((i for i in reversed(self.incidents.open) if i.is_acute), None)
        if incident is None and (found := vetoes.finding_of(code, observation)) is not None:
            incident = self.incidents.take_moment(self._zooms.located(found))
        self.actions += 1
        reason = vetoes.in_words(code)
        self.tell("skip", observation.step, f"update skipped: {reason}")
        if incident is not None:
            if incident.quiet_until is not None:
                incident.be_quiet(observation.step)
            incident.did("skip", observation.step, f"done: {reason}", self._clock())
        return incident

    def _decide(self, incident: Incident, step: int, outcome: Outcome) -> None:
        decision = self._judge.decide(incident, step)
        if isinstance(decision, Order):
            outcome.orders.append(decision)
        elif isinstance(decision, Advice):
            self.tell("advice", step, decision)
            incident.did("advise", step, decision, self._clock())
        elif decision is not None:
            self.tell("circuit_breaker", step, decision)
            incident.did("none", step, decision, self._clock())

    def _refresh_limits(self) -> bool:
        fresh: dict[str, float] = {}
        if self._judge.stands_down and not any(i.is_acute for i in self.incidents.open):
            self._judge.stands_down = False
        for detector in () if self._judge.stands_down else self._detectors:
            with self._contained(detector, self.step):
                hard = detector.hard_bounds()
                for metric, bound in detector.bounds().items():
                    wider = min(_wider(bound, self._widening), hard.get(metric, math.inf))
                    fresh[metric] = min(wider, fresh.get(metric, math.inf))
        between = self._divide.bound(self.step, waits=self._judge.is_weathering)
        if between is not None and not self._judge.stands_down:
            fresh["loss"] = min(between, fresh.get("loss", math.inf))
        changed = fresh != self.limits
        self.limits = fresh
        for metric, bound in fresh.items() if changed else ():
            self.bounds.setdefault(metric, MetricHistory()).add(self.step, bound)
        return changed

    def _widen(self) -> float:
        """How much wider the bounds are than the detectors say: 1, 4, 16 ...

        Vetoes that time and again turn out to be single harmless steps are a rare task or a rare
        kind of batch, which must not be kept from learning for ever.
        """
        harmless = sum(
            1
            for incident in self.incidents.all[-_LOOKED_BACK:]
            if incident.last_step > self.step - _HARMLESS_STEPS
            and not incident.is_open
            and incident.severity is not Severity.CRITICAL
            and any(action.action == "skip" for action in incident.actions)
        )
        return float(4 ** min(harmless // _HARMLESS, 8))

    def tell(self, kind: str, step: int, message: str) -> None:
        """A line for the run's log."""
        kind, message = shortened(kind, 40), shortened(message)
        self.events.append(EventLine(step=step, kind=kind, message=message, time_s=self._clock()))

    def zoomed(
        self, step: int, words: str, data: Mapping[str, float | int | str]
    ) -> list[Incident]:
        """The probe has looked closer at a step that was not finite; the incidents this changed."""
        self._zooms.take(step, words, data)
        changed = []
        for incident in self.incidents.open:
            for finding in list(incident.findings.values()):
                if (located := self._zooms.located(finding)) is not finding:
                    incident.add(located)
                    changed.append(incident)
        return changed

    # --- answers from the loop ------------------------------------------------------------

    def answered(
        self, action: str, incident_id: str, ok: bool, step: int, result: Mapping[str, Any]
    ) -> list[Incident]:
        """The loop answered a command; the incidents this changed."""
        words = words_of(result)
        status = "done" if ok else "failed"
        self.tell(action, step, f"{action} {status}: {words}")
        self.actions += ok
        changed: dict[str, Incident] = {}
        if (about := self.incidents.find(incident_id)) is not None:
            changed[incident_id] = about
            about.did(action, step, f"{status}: {words}", self._clock())
        self._judge.answered(action, incident_id, step, done=ok)
        self._validation.answered(action, incident_id, done=ok)
        if ok and action == "rollback" and isinstance(back := result.get("restored_step"), int):
            self.rollbacks = [*self.rollbacks, (step, back)][-_MAX_ROLLBACKS:]
            self._ignore_until = step
            onset = step if about is None else about.onset_step
            self._divide.rolled_back(onset, step, self.policy.relapse_steps)
            for detector in self._detectors:
                with self._contained(detector, step):
                    detector.rewind(back)
            self._validation.rewind(back)
            self._storm.rewind()
            for incident in self.incidents.rolled_back(step):
                changed[incident.id] = incident
            self._refresh_limits()
        return list(changed.values())

    def stopped(self, findings: Sequence[Finding]) -> Outcome:
        """What was found by the clock and the process table, not by what was measured."""
        outcome = Outcome(findings=list(findings))
        for finding in findings:
            if (incident := self.incidents.take(finding)) is not None:
                if incident not in outcome.incidents:
                    outcome.incidents.append(incident)
                self.tell(str(finding.symptom), finding.detected_step, finding.message)
        for incident in outcome.incidents:
            self._decide(incident, self.step, outcome)
        return outcome

    def withdraw(self, order: Order) -> None:
        """An order that was never given to the loop."""
        self._judge.withdraw(order)
        self._validation.withdraw(order)

    def end(self) -> list[Incident]:
        """The run is over: what has been quiet is resolved; the incidents this changed."""
        return self.incidents.settle(self.step, at_once=True)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is judged any more."""
        return not self._detectors

    def rest(self) -> None:
        """No more observations come: the detectors, which are most of what a run takes, go."""
        self._detectors = []

    def wake(self, detectors: Sequence[Detector]) -> None:
        """They come all the same, and are judged afresh."""
        self._detectors = list(detectors)

    # --- a restart of the agent -----------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that cannot be asked again, as plain data."""
        detectors: dict[str, Any] = {}
        for detector in self._detectors:
            with self._contained(detector, self.step):
                detectors[str(detector.symptom)] = detector.state()
        return {
            "step": self.step,
            "applied": self.applied,
            "actions": self.actions,
            "ignore_until": self._ignore_until,
            "rollbacks": [list(pair) for pair in self.rollbacks],
            "last": self.last,
            "events": list(self.events),
            "judge": self._judge.state(),
            "validation": self._validation.state(),
            "storm": self._storm.state(),
            "detectors": detectors,
            "histories": {name: h.state() for name, h in self.histories.items()},
            "bounds": {name: h.state() for name, h in self.bounds.items()},
            "layers": self.layers.state(),
            "mutes": self.incidents.mutes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up ``state()`` of before the restart. A detector whose state no longer fits starts
        afresh."""
        self.step = state["step"]
        self.applied = state["applied"]
        self.actions = state["actions"]
        self._ignore_until = state["ignore_until"]
        self.rollbacks = [(at, to) for at, to in state["rollbacks"]]
        self.last = dict(state["last"])
        self.events.extend(msgspec.convert(state["events"], list[EventLine]))
        self._judge.restore(state["judge"])
        if "validation" in state:
            self._validation.restore(state["validation"])
            self._storm.restore(state["storm"])
        for name, history in state["histories"].items():
            self.histories[name] = MetricHistory()
            self.histories[name].restore(history)
        for name, history in state.get("bounds", {}).items():
            self.bounds[name] = MetricHistory()
            self.bounds[name].restore(history)
        self.layers.restore(state.get("layers", {}))
        self.incidents.mutes.update(state.get("mutes", {}))
        if not state["detectors"]:
            self.rest()
        for i, detector in enumerate(self._detectors):
            try:
                detector.restore(state["detectors"][str(detector.symptom)])
            except Exception:
                log.warning("the state of detector %s of %s does not fit; it starts afresh",
                            detector.symptom, self.id)  # fmt: skip
                self._detectors[i] = fresh(detector)
                self.incidents.lose_sight(detector.symptom, self.step)
        self._refresh_limits()


def _wider(bound: float, factor: float) -> float:
    """The bound that much higher, whatever its sign."""
    return bound + (factor - 1.0) * abs(bound)
