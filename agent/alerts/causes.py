"""Which trouble is the same, and which is only the shadow of another."""

from __future__ import annotations

from lossguard.agent.feed import IncidentLine
from lossguard.agent.incidents import ACUTE, ACUTE_KIND
from lossguard.detectors import Symptom

_OF_HURT_WEIGHTS = frozenset({
    Symptom.OSCILLATION, Symptom.PLATEAU, Symptom.SLOW_CONVERGENCE, Symptom.VANISHING_GRADIENT,
    Symptom.DEAD_UNITS, Symptom.ACTIVATION_DRIFT, Symptom.WEIGHT_GROWTH, Symptom.OUTPUT_COLLAPSE,
    Symptom.CLIPPING,
})  # fmt: skip
_OF_STANDSTILL = frozenset({
    Symptom.DATA_STARVED, Symptom.LOW_GPU_UTILIZATION, Symptom.STRAGGLER, Symptom.NO_CHECKPOINT,
})  # fmt: skip
_EFFECTS: dict[str, frozenset[Symptom]] = {
    **dict.fromkeys(ACUTE, _OF_HURT_WEIGHTS),
    Symptom.HANG: _OF_STANDSTILL,
    Symptom.PROCESS_EXIT: _OF_STANDSTILL | {Symptom.HANG},
    Symptom.DATA_STARVED: frozenset({Symptom.LOW_GPU_UTILIZATION, Symptom.STRAGGLER}),
    Symptom.STRAGGLER: frozenset({Symptom.LOW_GPU_UTILIZATION}),
}


def sameness(line: IncidentLine) -> str:
    """Incidents of one run that agree in this are the same trouble: what hurts a run at once shows
    itself as a spike, then as NaN, then as divergence; all else is a symptom and its metric."""
    return ACUTE_KIND if line.symptom in ACUTE else f"{line.symptom} {line.metric}"


def mutes(cause: IncidentLine, effect: IncidentLine) -> bool:
    """Whether the one explains the other, of the same run and at the same time."""
    return effect.symptom in _EFFECTS.get(cause.symptom, ())
