"""What there is to say about one symptom."""

from __future__ import annotations

from dataclasses import dataclass

from lossguard.detectors.base import Symptom


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Plain sentences; code stands between backticks, as in Markdown."""

    symptom: Symptom
    title: str
    meaning: str
    """One sentence."""
    looks: str
    """The shape of the curve."""
    causes: tuple[str, ...]
    """The most frequent first."""
    fixes: tuple[str, ...]
    """What to try, in this order."""
    guard: str
    """What Lossguard does about it under ``guard``."""
    misses: tuple[str, ...]
    """What of it is not found."""
    false_alarms: tuple[str, ...]
    """What is taken for it wrongly."""
    sources: tuple[str, ...] = ()
    also_called: tuple[str, ...] = ()
    """Other words for it, in lower case."""
