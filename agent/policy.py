"""From an incident to an action: what each policy does about what."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossguard.agent.incidents import Incident
from lossguard.agent.ladder import Deed, Order, Rule
from lossguard.agent.policy_file import find_policy
from lossguard.agent.policy_settings import Policy
from lossguard.detectors import Finding, Symptom

__all__ = ["Advice", "Judge", "Order", "Policy", "find_policy"]

_MAX_ORDERED = 256


class Advice(str):
    """Words for a person that a policy has for this trouble."""


@dataclass(slots=True)
class _Climb:
    """Where a rule's ladder has been climbed to."""

    rung: int = 0
    """The next one to be tried."""
    done_step: float = float("-inf")
    """When the last one was carried out."""


class Judge:
    """Applies one policy to the incidents of one run, with a memory of what it already ordered.

    An incident has at most one order that is not answered, and never two for the same onset
    unless the first was carried out and the trouble came back. Trouble that comes back within
    ``window_steps`` of an action climbs one rung; what comes later begins at the bottom again.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._rules = policy.all_rules
        self._climbs = [_Climb() for _ in self._rules]
        self._ordered: dict[tuple[str, int], None] = {}
        self._pending: dict[str, int] = {}
        self._rollback_steps: deque[int] = deque(maxlen=policy.max_rollbacks)
        self._tripped = False
        self._back_step = float("-inf")
        self._storm_since: int | None = None
        self.stands_down = False
        """After actions that did not help: no bounds until all is quiet."""

    def wait(self, step: int, *, acute: bool) -> str | None:
        """Once a step: a word when trouble that no rollback cures has outlasted the patience.

        ``acute``: whether there still is any.
        """
        if not acute:
            self._storm_since = None
        if self._storm_since is None or step - self._storm_since < self.policy.patience_steps:
            return None
        since, self._storm_since, self.stands_down = self._storm_since, None, True
        return f"it goes on {step - since} steps later; {_NO_MORE}"

    def decide(self, incident: Incident, step: int) -> Order | str | None:
        """What to do about an incident that changed: an order, a word about why not, or nothing."""
        if not self.policy.acts or not incident.is_open or incident.id in self._pending:
            return None
        for place, rule in enumerate(self._rules):
            if calling := self._calling(place, rule, incident):
                return self._climb(place, rule, incident, calling, step)
        return None

    def _climb(
        self, place: int, rule: Rule, incident: Incident, calling: list[Finding], step: int
    ) -> Order | str | None:
        onset = min(finding.onset_step for finding in calling)
        key = (incident.id, onset)
        if key in self._ordered:
            return None
        climb = self._climbs[place]
        if step - climb.done_step > self.policy.window_steps:
            climb.rung = 0
        rung = rule.ladder[min(climb.rung, len(rule.ladder) - 1)]
        if rung.do == "rollback" and self._is_relapse(onset):
            return self._weather(onset, step)
        if rung.do == "advise":
            return self._advise(climb, str(rung.args["say"]), rule, step)
        why_not = self._spent(rung.do, step)
        if why_not is None and climb.rung >= len(rule.ladder):
            why_not = "" if self.stands_down else _end_of(len(rule.ladder))
        if why_not is not None:
            self.stands_down = True
            return why_not or None
        self._ordered[key] = None
        if len(self._ordered) > _MAX_ORDERED:
            del self._ordered[next(iter(self._ordered))]
        self._pending[incident.id] = place
        args = dict(rung.args)
        if rung.do == "rollback":
            self._tripped = False
            self._rollback_steps.append(step)
            args = {"onset": onset, "hold_lr": 1, **args}
        return Order(rung.do, incident.id, args)

    def _advise(self, climb: _Climb, words: str, rule: Rule, step: int) -> Advice | None:
        """Said once; a ladder that ends with advice has nothing more to try, and lifts nothing."""
        if climb.rung >= len(rule.ladder):
            return None
        climb.rung, climb.done_step = climb.rung + 1, step
        return Advice(words)

    @property
    def is_weathering(self) -> bool:
        """Whether it waits for bad data to pass by, which no rollback cures."""
        return self._storm_since is not None

    def _is_relapse(self, onset: int) -> bool:
        return onset - self._back_step <= self.policy.relapse_steps

    def _weather(self, onset: int, step: int) -> str | None:
        """Going back does not cure it: skip while it lasts, said once."""
        if self.stands_down or self._storm_since is not None:
            return None
        self._storm_since = step
        after = max(int(onset - self._back_step), 0)
        return _RELAPSE.format(after=after, patience=self.policy.patience_steps)

    def _spent(self, action: Deed, step: int) -> str | None:
        """Why there are no more rollbacks; empty where that was said before."""
        if action != "rollback":
            return None
        recent = [s for s in self._rollback_steps if step - s <= self.policy.window_steps]
        if len(recent) < self.policy.max_rollbacks:
            return None
        said, self._tripped = self._tripped, True
        return "" if said else _BREAKER.format(number=len(recent), steps=self.policy.window_steps)

    def _calling(self, place: int, rule: Rule, incident: Incident) -> list[Finding]:
        """The findings that call for an action of this rule and are news since its last one.

        An older one, still open, has had its rollback: its onset is not to be gone back to again.
        """
        after = max(self._back_step, self._climbs[place].done_step)
        return [
            finding
            for finding in incident.findings.values()
            if finding.severity.rank >= rule.severity.rank
            and finding.end_step is None
            and finding.detected_step > after
            and self._concerns(rule, place, finding)
        ]

    def _concerns(self, rule: Rule, place: int, finding: Finding) -> bool:
        if finding.symptom is not Symptom.NONFINITE:
            return finding.symptom in rule.symptoms
        # The general ladder is for it too, once it has outlasted the tolerance.
        general = place == len(self.policy.rules)
        if not general and finding.symptom not in rule.symptoms:
            return False
        return finding.evidence.get("consecutive", 0) >= self.policy.nonfinite_tolerance

    def answered(self, action: str, incident: str, step: int, *, done: bool) -> None:
        """The order for this incident was carried out, and what comes after it counts anew;
        or it was not, and another onset is worth another try."""
        place = self._pending.pop(incident, None)
        if not done:
            return
        if action == "rollback":
            self._back_step = step
        if place is not None and place < len(self._climbs):
            climb = self._climbs[place]
            climb.rung, climb.done_step = climb.rung + 1, step
        self._forget(incident)

    def withdraw(self, order: Order) -> None:
        """An order that was never given."""
        self._pending.pop(order.incident, None)
        self._forget(order.incident)
        if order.action == "rollback" and self._rollback_steps:
            self._rollback_steps.pop()

    def _forget(self, incident: str) -> None:
        self._ordered = {key: None for key in self._ordered if key[0] != incident}

    def state(self) -> dict[str, Any]:
        """What it remembers, as plain data."""
        return {
            "ordered": [list(key) for key in self._ordered],
            "pending": [list(item) for item in self._pending.items()],
            "climbs": [[climb.rung, climb.done_step] for climb in self._climbs],
            "rollback_steps": list(self._rollback_steps),
            "tripped": self._tripped,
            "back_step": self._back_step,
            "storm_since": self._storm_since,
            "stands_down": self.stands_down,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the judge that ``state`` came from."""
        self._ordered = dict.fromkeys((incident, onset) for incident, onset in state["ordered"])
        self._pending = dict(state["pending"])
        for climb, (rung, done_step) in zip(self._climbs, state["climbs"], strict=False):
            climb.rung, climb.done_step = rung, done_step
        self._rollback_steps.extend(state["rollback_steps"])
        self._tripped = state["tripped"]
        self._back_step = state["back_step"]
        self._storm_since = state["storm_since"]
        self.stands_down = state["stands_down"]


_NO_MORE = "bounds are lifted and no more is done until it is over, a person is needed"
_RELAPSE = (
    "it is back {after} steps after a rollback: going back does not cure it (the data, or the "
    "script, may have changed); updates are skipped for up to {patience} steps while it lasts"
)
_BREAKER = (
    "circuit breaker: {number} rollbacks within {steps} steps did not cure it; no more are "
    "ordered, a person is needed"
)


def _end_of(rungs: int) -> str:
    return f"all {rungs} rungs of the ladder have been tried; {_NO_MORE}"
