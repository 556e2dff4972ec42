"""Where the pictures of ``lossguard backtest --plot`` go."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lossguard.agent.logs import Place
from lossguard.errors import LossguardError, UsageError

_SUFFIXES = frozenset((
    ".gz", ".xz", ".bz2", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".wandb", ".log", ".txt",
))  # fmt: skip
FORMATS = (".png", ".svg", ".pdf")


def pictures_for(places: Sequence[Place], plot: str | None) -> list[Path | None]:
    """For each place the picture to draw; None throughout where none is wanted.

    A folder is made where it is not there. Raises UsageError for one picture of several logs, and
    LossguardError where pictures cannot be drawn at all.
    """
    if plot is None:
        return [None] * len(places)
    if importlib.util.find_spec("matplotlib") is None:
        raise LossguardError("drawing needs matplotlib: pip install matplotlib")
    path = Path(plot)
    is_folder = plot.endswith(("/", os.sep)) or path.is_dir()
    if not is_folder and len(places) > 1:
        raise UsageError(
            f"--plot {plot!r} is one picture for {len(places)} logs: name a folder, "
            f"say --plot {path.with_suffix('')}/"
        )
    if not is_folder and path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {plot!r}: pictures end in {', '.join(FORMATS)}, folders in /")
    try:
        (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LossguardError(f"--plot {plot!r}: cannot be made ({error.strerror})") from error
    if not is_folder:
        return [path] * len(places)
    return [path / f"{name}.png" for name in _names(places)]


def _names(places: Sequence[Place]) -> list[str]:
    """A name for each, as short as tells them apart."""
    short = [_bare(place.path) for place in places]
    twice = Counter(short)
    names = [
        name if twice[name] == 1 else f"{place.path.absolute().parent.name}-{name}"
        for name, place in zip(short, places, strict=True)
    ]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def _bare(path: Path) -> str:
    """The name without what says how it is written."""
    name = path.name or "log"
    while Path(name).suffix.lower() in _SUFFIXES:
        name = Path(name).stem
    return name
