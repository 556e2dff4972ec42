"""Which steps have turned out to be good: by what came after them."""

from __future__ import annotations

from collections.abc import Iterable

from lossguard.agent.incidents import Incident
from lossguard.detectors import Severity

_PROBATION = 64
"""Steps that must have passed without acute trouble until a step is proven good: what a slow
divergence needs to show."""
_PROVEN_EVERY = 16


def last_before_trouble(incidents: Iterable[Incident]) -> int | None:
    """The newest step whose weights the acute ones of these do not cast doubt on; None without any.

    What is bad at an onset was made by the weights of the step before.
    """
    acute = (one for one in incidents if one.is_acute and one.severity is not Severity.INFO)
    return min((one.onset_step - 2 for one in acute), default=None)


def newest_proven(step: int, incidents: Iterable[Incident]) -> int:
    """The newest step that has proven good at ``step``, with these incidents open: a multiple of
    16."""
    newest = step - _PROBATION
    if (last_good := last_before_trouble(incidents)) is not None:
        newest = min(newest, last_good)
    return newest - newest % _PROVEN_EVERY
