"""The story of an incident for viewers: what it means, what helps, and what was kept of it."""

from __future__ import annotations

from pathlib import Path

from lossguard.agent.evidence import STACKS
from lossguard.agent.feed import IncidentLine, IncidentStory
from lossguard.detectors import Symptom
from lossguard.detectors.advice import ADVICE

_TEXTS = ("traceback.txt", STACKS, "stacks-rank*.txt", "flight_recorder-rank*.txt")
_MOST_TEXTS = 16
_MOST_CHARACTERS = 32_000


def story_of(line: IncidentLine, folder: Path) -> IncidentStory:
    """What ``lossguard explain`` says of its symptom, and the texts that lie in ``folder``."""
    advice = ADVICE[Symptom(line.symptom)]
    return IncidentStory(
        incident=line.id,
        title=advice.title,
        meaning=advice.meaning,
        causes=list(advice.causes),
        fixes=list(advice.fixes),
        folder=str(folder) if folder.is_dir() else "",
        texts=_texts(folder),
    )


def _texts(folder: Path) -> dict[str, str]:
    paths = [path for pattern in _TEXTS for path in sorted(folder.glob(pattern))]
    found = {}
    for path in paths[:_MOST_TEXTS]:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                found[path.name] = file.read(_MOST_CHARACTERS)
        except OSError as error:
            found[path.name] = f"cannot be read: {error}"
    return found
