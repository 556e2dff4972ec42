"""What a policy holds: what may be done to a run, and how its detectors are set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lossguard.agent.detector_settings import build, settings_of
from lossguard.agent.ladder import LADDER, Rule, Rung
from lossguard.agent.standstill import HangBounds
from lossguard.agent.validation import Validation
from lossguard.detectors import CATALOGUE, Detector, Symptom

POLICY_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}\Z")
LEAST = {
    "nonfinite_tolerance": 1,
    "max_rollbacks": 1,
    "window_steps": 1,
    "relapse_steps": 0,
    "patience_steps": 0,
    "max_skips_in_row": 1,
    "max_skips": 1,
}
_MOST = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What may be done to a run without asking, and what is looked for.

    ``observe`` changes nothing. ``guard`` vetoes bad updates in their own step (the probe does,
    with the limits the agent streams) and rolls back what a veto cannot save.
    """

    name: str
    acts: bool
    rollback_for: frozenset[Symptom] = frozenset({Symptom.LOSS_SPIKE, Symptom.DIVERGENCE})
    """Critical incidents of these symptoms climb the ladder."""
    nonfinite_tolerance: int = 5
    """Non-finite steps in a row before the run is rolled back [steps, >= 1]; the update of each
    is skipped at once."""
    max_rollbacks: int = 3
    """Circuit breaker: so many rollbacks within ``window_steps``, then only alerts [>= 1]."""
    window_steps: int = 500
    """What the circuit breaker looks back on [steps, >= 1]."""
    relapse_steps: int = 8
    """Trouble that begins within so many steps after a rollback is not cured by another one: it is
    in the data or in the script [steps, >= 0]."""
    patience_steps: int = 64
    """How long the updates of such trouble are still skipped, for bad data passes by [steps, >= 0];
    after that it is taken for the new normal, and a person is asked for."""
    max_skips_in_row: int = 48
    """So many updates skipped in a row are a storm: an incident of its own, which climbs the ladder
    as a divergence does, or as what is not finite [steps, >= 1]."""
    max_skips: int = 64
    """So many skipped within ``window_steps`` are one too [steps, >= 1]."""
    ladder: tuple[Rung, ...] = LADDER
    """Rungs for ``rollback_for``: the next one for trouble within ``window_steps`` of the last."""
    rules: tuple[Rule, ...] = ()
    """What is done about other symptoms; the first rule that fits an incident is taken."""
    validation: Validation = field(default_factory=Validation)
    """What is done by the validation loss: the best state kept, the run stopped early."""
    hang: HangBounds = field(default_factory=HangBounds)
    """How long a run may do nothing before it is called hung."""
    disabled: frozenset[Symptom] = frozenset()
    """Detectors that do not run."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """What differs from the defaults of the detectors, by symptom and field of its config."""

    def __post_init__(self) -> None:
        if not POLICY_NAME.match(self.name):
            raise ValueError(f"name must be 1 to 40 of A-Z a-z 0-9 . _ -, got {self.name!r}")
        for key, least in LEAST.items():
            value = getattr(self, key)
            if not least <= value <= _MOST:
                raise ValueError(f"{key} must be from {least} to {_MOST:,}, got {value}")

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rules, and the one that ``rollback_for`` and ``ladder`` make."""
        if not (self.rollback_for and self.ladder):
            return self.rules
        return (*self.rules, Rule(self.rollback_for, self.ladder))

    @property
    def base(self) -> str:
        """``guard`` where it acts, else ``observe``."""
        return "guard" if self.acts else "observe"


def persistent_steps(tolerance: int) -> int:
    """When the non-finite detector has to speak up again, for the tolerance to be noticed."""
    return max(2, tolerance)


def effective_settings(policy: Policy, symptom: str) -> dict[str, Any]:
    """What the detector of this symptom is built with, beyond its defaults."""
    known = {setting.name for setting in settings_of(CATALOGUE[symptom])}
    chosen = dict(policy.settings.get(symptom, {}))
    if symptom == Symptom.NONFINITE and "persistent_steps" in known:
        chosen["persistent_steps"] = persistent_steps(policy.nonfinite_tolerance)
    return chosen


def detectors_for(policy: Policy) -> list[Detector]:
    """A fresh detector of every kind that the policy does not disable, set as it says."""
    return [
        build(kind, effective_settings(policy, symptom))
        for symptom, kind in CATALOGUE.items()
        if kind.symptom not in policy.disabled
    ]
