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

__all__ = ["ADVICE", "Advice"]
