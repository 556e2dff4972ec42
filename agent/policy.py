"""From an incident to an action: what each policy does about what."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.agent.incidents import Incident
from lossguard.agent.policy_file import find_policy
from lossguard.agent.policy_settings import Policy
from lossguard.detectors import Finding, Severity, Symptom
from lossguard.probes.wire import Action

__all__ = ["Judge", "Order", "Policy", "find_policy"]

_MAX_ORDERED = 256


@dataclass(frozen=True, slots=True)
class Order:
    """An action the policy wants."""

    action: Action
    incident: str
    args: dict[str, float | int | str]


class Judge:
    """Applies one policy to the incidents of one run, with a memory of what it already ordered.

    An incident has at most one order that is not answered, and never two for the same onset
    unless the first was carried out and the trouble came back.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._ordered: dict[tuple[str, int], None] = {}
        self._pending: set[str] = set()
        self._rollback_steps: deque[int] = deque(maxlen=policy.max_rollbacks)
        self._tripped = False
        self._done_step = float("-inf")
        self.stands_down = False
        """After rollbacks that did not help: no bounds until all is quiet."""

    def decide(self, incident: Incident, step: int) -> Order | str | None:
        """What to do about an incident that changed: an order, a word about why not, or nothing."""
        calling = self._calling(incident)
        if not self.policy.acts or not incident.is_open or not calling:
            return None
        onset = min(finding.onset_step for finding in calling)
        key = (incident.id, onset)
        if key in self._ordered or incident.id in self._pending:
            return None
        if step - self._done_step <= self.policy.relapse_steps:
            if self.stands_down:
                return None
            self.stands_down = True
            return (
                f"it came back {step - self._done_step} steps after a rollback: going back does "
                "not cure it (the data, or the script, may have changed); bounds are lifted and "
                "no more is done until it is over, a person is needed"
            )
        recent = [s for s in self._rollback_steps if step - s <= self.policy.window_steps]
        if len(recent) >= self.policy.max_rollbacks:
            if self._tripped:
                return None
            self._tripped = self.stands_down = True
            return (
                f"circuit breaker: {len(recent)} rollbacks within {self.policy.window_steps} "
                "steps did not cure it; no more are ordered, a person is needed"
            )
        self._tripped = False
        self._ordered[key] = None
        if len(self._ordered) > _MAX_ORDERED:
            del self._ordered[next(iter(self._ordered))]
        self._pending.add(incident.id)
        self._rollback_steps.append(step)
        return Order("rollback", incident.id, {"onset": onset, "hold_lr": 1})

    def _calling(self, incident: Incident) -> list[Finding]:
        """The findings that call for a rollback and are news since the last one.

        An older one, still open, has had its rollback: its onset is not to be gone back to again.
        """
        return [
            finding
            for finding in incident.findings.values()
            if finding.severity is Severity.CRITICAL
            and finding.end_step is None
            and finding.detected_step > self._done_step
            and self._is_for_rollback(finding)
        ]

    def _is_for_rollback(self, finding: Finding) -> bool:
        if finding.symptom is Symptom.NONFINITE:
            return finding.evidence.get("consecutive", 0) >= self.policy.nonfinite_tolerance
        return finding.symptom in self.policy.rollback_for

    def answered(self, incident: str, step: int, *, done: bool) -> None:
        """The rollback for this incident was carried out, and what comes after it counts anew;
        or it was not, and another onset is worth another try."""
        self._pending.discard(incident)
        if done:
            self._done_step = step
            self._forget(incident)

    def withdraw(self, order: Order) -> None:
        """An order that was never given."""
        self._pending.discard(order.incident)
        self._forget(order.incident)
        if self._rollback_steps:
            self._rollback_steps.pop()

    def _forget(self, incident: str) -> None:
        self._ordered = {key: None for key in self._ordered if key[0] != incident}

    def state(self) -> dict[str, Any]:
        """What it remembers, as plain data."""
        return {
            "ordered": [list(key) for key in self._ordered],
            "pending": sorted(self._pending),
            "rollback_steps": list(self._rollback_steps),
            "tripped": self._tripped,
            "done_step": self._done_step,
            "stands_down": self.stands_down,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the judge that ``state`` came from."""
        self._ordered = dict.fromkeys((incident, onset) for incident, onset in state["ordered"])
        self._pending = set(state["pending"])
        self._rollback_steps.extend(state["rollback_steps"])
        self._tripped = state["tripped"]
        self._done_step = state["done_step"]
        self.stands_down = state["stands_down"]
