"""``lossguard policies --reference LOG``: the loss of a good run, as a policy holds it.

With it the slow-convergence detector compares a run with that one at the same steps
(``detectors.reference_run``), which finds what a run's own earlier curve cannot show: one that is
slow from its first step, or whose learning rate was lowered too early.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from pathlib import Path

from lossguard.agent.logs import LogOptions, find_places
from lossguard.detectors import Observation
from lossguard.detectors.streaming import median
from lossguard.errors import InputError

_POINTS = 128
_FEWEST = 24


def reference_points(
    observations: Iterable[Observation], most: int = _POINTS
) -> tuple[tuple[float, float], ...]:
    """At most ``most`` points of (step, loss), by step: medians of equal shares of the losses.

    Steps and losses that are missing or not finite are passed over. Of a log with less than
    ``most`` losses every one is a point.
    """
    curve = [
        (observation.step, observation.values["loss"])
        for observation in observations
        if isfinite(observation.values.get("loss", float("nan")))
    ]
    curve = sorted(dict(curve).items())
    share = max(1, -(-len(curve) // most))
    blocks = (curve[i : i + share] for i in range(0, len(curve), share))
    return tuple(
        (float(median([step for step, _ in block])), float(median([loss for _, loss in block])))
        for block in blocks
    )


def reference_of(log: str) -> tuple[tuple[float, float], ...]:
    """The points of a log file. Raises InputError where it holds no curve."""
    logs = [one for place in find_places(log) for one in place.open(LogOptions())]
    if len(logs) != 1:
        raise InputError(f"{log}: holds {len(logs)} logs; a reference is one run, name its file")
    points = reference_points(logs[0])
    if len(points) < _FEWEST:
        raise InputError(
            f"{log}: {len(points)} losses are too few for a reference; it takes {_FEWEST}"
        )
    return points


def as_toml(log: str) -> str:
    """What to write into a policy file."""
    points = reference_of(log)
    lines = (f"    [{step:.10g}, {loss:.6g}]," for step, loss in points)
    return "\n".join(
        (
            f"# The loss of {Path(log).name}, in {len(points)} points.",
            "[detectors.slow_convergence]",
            "reference = [",
            *lines,
            "]",
        )
    )
