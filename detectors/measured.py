"""Whether a family was measured at a step at all."""

from __future__ import annotations

from lossguard.detectors.base import Family, Observation


def measured(observation: Observation, name: str) -> Family | None:
    """The family of that name, where at least one of its values was measured at this step.

    Live, a family that is sampled is there at every step, with all its values missing at most of
    them; a search through the bytes tells in a tenth of the time of a reduction.
    """
    family = observation.families.get(name)
    if family is None or b"\0" not in family.missing.tobytes():
        return None
    return family
