"""Reading a log that a test writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lossguard.agent.logs import Log, LogOptions, find_places
from lossguard.detectors import Observation

GOLDEN = Path(__file__).parents[1] / "data" / "logs"
"""Logs that other programs wrote."""


def open_all(path: Path, options: LogOptions | None = None) -> list[Log]:
    """The logs in a file or a folder."""
    places = find_places(str(path))
    return [log for place in places for log in place.open(options or LogOptions())]


def read(
    folder: Path,
    content: str | bytes,
    name: str = "log.csv",
    options: LogOptions | None = None,
) -> tuple[Log, list[Observation]]:
    """A log of this content, and its observations."""
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    (log,) = open_all(file, options)
    return log, list(log)


def points(observations: Sequence[Observation]) -> list[tuple[int, dict[str, float]]]:
    """Step and plain metrics of each."""
    return [(observation.step, dict(observation.values)) for observation in observations]
