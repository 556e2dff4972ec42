"""One training run as the agent knows it: the path every observation takes, live and offline.

observation -> charts -> detectors -> incidents -> policy -> what to do. Nothing here reads a
clock, a socket or a disk; ``lossguard backtest`` drives the very same class from a file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from lossguard.agent import charts, vetoes
from lossguard.agent.charts import Charts
from lossguard.agent.contained_detectors import ContainedDetectors
from lossguard.agent.diagnosis import Diagnosis
from lossguard.agent.feed import EventLine
from lossguard.agent.incidents import Incident, Incidents
from lossguard.agent.intake import shortened, words_of
from lossguard.agent.limits import Limits
from lossguard.agent.outcome import Outcome
from lossguard.agent.policy import Advice, Judge, Order, Policy
from lossguard.agent.proven import newest_proven
from lossguard.agent.skip_storm import SkipStorm
from lossguard.agent.validation import ValidationWatch
from lossguard.detectors import Detector, Finding, Observation

_MAX_EVENTS = 500
_MAX_ROLLBACKS = 500


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
        self.policy = policy
        self._clock = wall_clock
        self.detectors = ContainedDetectors(run, detectors, self.tell)
        self.charts = Charts()
        self.incidents = Incidents(run, wall_clock)
        self.limits = Limits()
        self.events: deque[EventLine] = deque(maxlen=_MAX_EVENTS)
        self.rollbacks: list[tuple[int, int]] = []
        """At which step, and to which."""
        self.step = 0
        self.applied = 0
        self.actions = 0
        self.proven_step = -1
        """The newest step that has proven good since (in steps of 16): it may be kept for good."""
        self._ignore_until = -1
        self._judge = Judge(policy)
        self._diagnosis = Diagnosis(self.incidents, self.tell, wall_clock)
        self._validation = ValidationWatch(run, policy.validation)
        self._storm = SkipStorm(policy.max_skips_in_row, policy.max_skips, policy.window_steps)

    def tell(self, kind: str, step: int, message: str) -> None:
        """A line for the run's log."""
        kind, message = shortened(kind, 40), shortened(message)
        self.events.append(EventLine(step=step, kind=kind, message=message, time_s=self._clock()))

    # --- what is measured -----------------------------------------------------------------

    def observe(self, observation: Observation) -> Outcome:
        """Take in one step."""
        self.step = max(self.step, observation.step)
        if observation.applied >= 0:
            self.applied = observation.applied
        outcome = Outcome()
        self.charts.note(observation)
        self.limits.divide.note(observation.step, observation.values.get("loss"))
        if observation.step <= self._ignore_until:
            # It was measured before a rollback that we know of already. Its veto did happen.
            self.actions += self._diagnosis.take_veto(observation, outcome)
            return outcome
        self._diagnosis.take(self.detectors.ask(observation), outcome)
        self.actions += self._diagnosis.take_veto(observation, outcome)
        storm = self._storm.take(observation.step, vetoes.code_of(observation))
        self._diagnosis.take([storm] if storm is not None else [], outcome)
        for incident in self.incidents.settle(observation.step):
            outcome.note(incident)
        if outcome.changed:
            self.limits.widen(self.incidents.all, self.step)
        for incident in outcome.incidents:
            self._decide(incident, observation.step, outcome)
        if self.policy.acts and (loss := observation.values.get("val_loss")) is not None:
            outcome.orders += self._validation.take(observation.step, loss)
        if (word := self._judge.wait(observation.step, acute=self._is_in_trouble)) is not None:
            self.tell("circuit_breaker", observation.step, word)
        outcome.limits_changed = self._refresh_limits() | self._prove()
        return outcome

    def _decide(self, incident: Incident, step: int, outcome: Outcome) -> None:
        decision = self._judge.decide(incident, step)
        if isinstance(decision, Order):
            outcome.orders.append(decision)
            if decision.action == "rollback":
                onset = int(decision.args["onset"])
                self.limits.divide.draw(onset, step, self.policy.relapse_steps)
        elif isinstance(decision, Advice):
            self.tell("advice", step, decision)
            incident.did("advise", step, decision, self._clock())
        elif decision is not None:
            self.tell("circuit_breaker", step, decision)
            incident.did("none", step, decision, self._clock())

    @property
    def _is_in_trouble(self) -> bool:
        return any(incident.is_acute for incident in self.incidents.open)

    def _refresh_limits(self) -> bool:
        """Whether they changed."""
        if self._judge.stands_down and not self._is_in_trouble:
            self._judge.stands_down = False
        if self._judge.stands_down:
            return self.limits.lift(self.step)
        bounds = self.detectors.bounds(self.step, self.limits.widening)
        return self.limits.set(self.step, bounds, waits=self._judge.is_weathering)

    def _prove(self) -> bool:
        """Move ``proven_step`` on, up to the trouble that is open; whether it moved."""
        before = self.proven_step
        self.proven_step = max(before, newest_proven(self.step, self.incidents.open))
        return self.proven_step != before

    # --- what is heard besides ------------------------------------------------------------

    def zoomed(
        self, step: int, words: str, data: Mapping[str, float | int | str]
    ) -> list[Incident]:
        """The probe has looked closer at a step that was not finite; the incidents this changed."""
        return self._diagnosis.zoomed(step, words, data)

    def stopped(self, findings: Sequence[Finding]) -> Outcome:
        """What was found by the clock and the process table, not by what was measured."""
        outcome = Outcome(findings=list(findings))
        for finding in findings:
            if (incident := self.incidents.take(finding)) is not None:
                outcome.note(incident)
                self.tell(str(finding.symptom), finding.detected_step, finding.message)
        for incident in outcome.incidents:
            self._decide(incident, self.step, outcome)
        return outcome

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
        if action == "rollback" and not ok:
            self.limits.divide.lift()
            self._refresh_limits()
        if ok and action == "rollback" and isinstance(back := result.get("restored_step"), int):
            onset = step if about is None else about.onset_step
            for incident in self._rolled_back(step, back, onset):
                changed[incident.id] = incident
        return list(changed.values())

    def _rolled_back(self, step: int, back: int, onset: int) -> list[Incident]:
        """At ``step`` it went back, for trouble that began at ``onset``; the incidents undone."""
        self.rollbacks = [*self.rollbacks, (step, back)][-_MAX_ROLLBACKS:]
        self._ignore_until = step
        self.limits.divide.draw(onset, step, self.policy.relapse_steps)
        self.detectors.rewind(step, back)
        self._validation.rewind(back)
        self._storm.rewind()
        undone = self.incidents.rolled_back(step)
        self._refresh_limits()
        return undone

    def withdraw(self, order: Order) -> None:
        """An order that was never given to the loop."""
        self._judge.withdraw(order)
        self._validation.withdraw(order)

    def end(self) -> list[Incident]:
        """The run is over: what has been quiet is resolved; the incidents this changed."""
        return self.incidents.settle(self.step, at_once=True)

    # --- a restart of the agent -----------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that cannot be asked again, as plain data."""
        detectors = self.detectors.state(self.step)  # one that fails adds an event
        return {
            "step": self.step,
            "applied": self.applied,
            "actions": self.actions,
            "ignore_until": self._ignore_until,
            "rollbacks": [list(pair) for pair in self.rollbacks],
            "last": self.charts.last,
            "events": list(self.events),
            "judge": self._judge.state(),
            "validation": self._validation.state(),
            "storm": self._storm.state(),
            "detectors": detectors,
            "histories": charts.states(self.charts.histories),
            "bounds": charts.states(self.limits.past),
            "layers": self.charts.layers.state(),
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
        self.events.extend(msgspec.convert(state["events"], list[EventLine]))
        self._judge.restore(state["judge"])
        if "validation" in state:
            self._validation.restore(state["validation"])
            self._storm.restore(state["storm"])
        self.charts.restore(state["histories"], state["last"], state.get("layers", {}))
        self.limits.past.update(charts.restored(state.get("bounds", {})))
        self.incidents.mutes.update(state.get("mutes", {}))
        for symptom in self.detectors.restore(state["detectors"]):
            self.incidents.lose_sight(symptom, self.step)
        self._refresh_limits()
