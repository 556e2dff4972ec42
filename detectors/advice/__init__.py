"""What to make of each symptom: the one source of ``lossguard explain`` and docs/symptoms.md.

Plain data. Thresholds are not in here: they are the detectors' own.
"""

from __future__ import annotations

from lossguard.detectors.advice import (
    feeding,
    layers,
    learning,
    losses,
    machine,
    ranks,
    standing,
    stepping,
)
from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

_ALL = (
    *losses.ALL, *learning.ALL, *layers.ALL, *stepping.ALL, *feeding.ALL, *machine.ALL,
    *ranks.ALL, *standing.ALL,
)  # fmt: skip

ADVICE: dict[Symptom, Advice] = {advice.symptom: advice for advice in _ALL}
_BY_NAME = {str(symptom): advice for symptom, advice in ADVICE.items()}


def advice_on(symptom: str) -> Advice | None:
    """By the name of a symptom; None for one that this version does not know."""
    return _BY_NAME.get(symptom)


def title_of(symptom: str) -> str:
    """What people call it, whether this version knows it or not."""
    advice = advice_on(symptom)
    return advice.title if advice is not None else symptom.replace("_", " ")


__all__ = ["ADVICE", "Advice", "advice_on", "title_of"]
