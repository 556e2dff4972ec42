"""From what a user names (files, folders, patterns) to the logs in it."""

from __future__ import annotations

import atexit
import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lossguard.agent.logs.log import Log, LogOptions
from lossguard.agent.logs.recognition import open_events, open_logs
from lossguard.agent.logs.tfevents import EventFile
from lossguard.errors import InputError

_LOG = re.compile(
    r"\.(?:csv|tsv|jsonl|ndjson|wandb)(?:\.(?:gz|xz|bz2))?$|^trainer_state\.json$", re.IGNORECASE
)
_STATE = "trainer_state.json"
_EVENTS = "tfevents"
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_SPLIT = re.compile(r"(?:^|[_\W])(train|training|val|valid|validation|eval|test)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Something to read: a file, or the event files of one run."""

    name: str
    path: Path
    events: tuple[EventFile, ...] = ()
    folder: str = ""
    """The folder that the user named, where this was met in it: it may turn out to be no log."""

    def open(self, options: LogOptions) -> list[Log]:
        """Raises InputError when it cannot be read."""
        if self.events:
            return open_events(self.name, list(self.events), options)
        return open_logs(self.name, self.path, options)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        paths = [event.path for event in self.events] or [self.path]
        return sum(path.stat().st_size for path in paths if path.is_file())


def find_places(argument: str) -> list[Place]:
    """What one argument stands for, in a fixed order.

    A folder stands for everything in it that may be a log: the event files in one folder are one
    run, and of the checkpoints of one Hugging Face run the last has the whole history. Raises
    InputError when there is nothing.
    """
    path = Path(argument)
    try:
        is_there, is_folder = os.path.lexists(path), path.is_dir()
    except ValueError as error:
        raise InputError(f"{argument!r}: cannot be read ({error})") from error
    if not is_there and glob.has_magic(argument):
        found = sorted(glob.glob(argument, recursive=True))
        if not found:
            raise InputError(f"{argument}: no file has such a name")
        return [place for one in found for place in find_places(one)]
    if argument == "-" or (is_there and path.is_fifo()):
        return [Place(argument, _spooled(argument, path))]
    if not is_folder:
        return [Place(argument, path)]
    places = [replace(place, folder=argument) for place in _in_folder(path)]
    if not places:
        raise InputError(
            f"{argument}: no log in this folder (event files, trainer_state.json, .csv, .tsv, "
            ".jsonl, .ndjson, .wandb)"
        )
    return places


def _spooled(argument: str, path: Path) -> Path:
    """What can be read but once, in a file of our own that is gone when the process ends."""
    handle, name = tempfile.mkstemp(prefix="lossguard-")
    atexit.register(Path(name).unlink, missing_ok=True)
    source = sys.stdin.buffer if argument == "-" else path.open("rb")
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(source, file)
    except OSError as error:
        raise InputError(f"{argument}: cannot be read ({error.strerror})") from error
    finally:
        if argument != "-":
            source.close()
    return Path(name)


def _in_folder(folder: Path) -> Iterator[Place]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        folders = [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
        files = [Path(entry) for entry in entries if entry.is_file()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    state = _last_state(files, folders)
    if state is not None:
        yield Place(str(state), state)
        # Its runs/ holds the same numbers once more.
        folders = [f for f in folders if f.name != "runs" and not _CHECKPOINT.match(f.name)]
    events = tuple(EventFile(file) for file in files if _EVENTS in file.name)
    splits = _splits(folders)
    if events or splits:
        yield Place(str(folder), folder, (*events, *splits))
        used = {split.path.parent for split in splits}
        folders = [f for f in folders if f not in used]
    for file in files:
        if _LOG.search(file.name) and file != state and _EVENTS not in file.name:
            yield Place(str(file), file)
    for below in folders:
        yield from _in_folder(below)


def _last_state(files: Sequence[Path], folders: Sequence[Path]) -> Path | None:
    """The ``trainer_state.json`` with the whole history of a Hugging Face run."""
    here = [file for file in files if file.name == _STATE]
    if here:
        return here[0]
    numbered = [(int(m[1]), f) for f in folders if (m := _CHECKPOINT.match(f.name))]
    for _, folder in sorted(numbered, reverse=True):
        if (folder / _STATE).is_file():
            return folder / _STATE
    return None


def _splits(folders: Sequence[Path]) -> list[EventFile]:
    """Event files of folders that hold the training's and the evaluation's half of one run.

    ``SummaryWriter.add_scalars("Loss", {"train": ..., "val": ...})`` makes ``Loss_train`` and
    ``Loss_val``; Keras makes ``train`` and ``validation``.
    """
    found: dict[str, list[EventFile]] = {}
    for folder in folders:
        match = _SPLIT.search(folder.name)
        if match is None:
            continue
        split = "train" if match[1].lower().startswith("train") else "val"
        names = sorted(file for file in folder.iterdir() if _EVENTS in file.name)
        found.setdefault(split, []).extend(EventFile(file, f"{split}/") for file in names)
    if not (found.get("train") and found.get("val")):
        return []
    return [*found["train"], *found["val"]]
