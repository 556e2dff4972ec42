"""TensorBoard event files: the scalars in them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossguard.agent.logs.event import scalars_of
from lossguard.agent.logs.names import Recogniser
from lossguard.agent.logs.source import Record, Source
from lossguard.agent.logs.tfrecord import Frames, lengths_that_fit
from lossguard.errors import InputError


@dataclass(frozen=True, slots=True)
class EventFile:
    """One file of a run; ``prefix`` goes before its tags ("val/"), for one file per split."""

    path: Path
    prefix: str = ""


class EventFiles(Source):
    """The scalars of the event files of one run.

    Files with one prefix are read one after the other, in the order given. Files with different
    prefixes are merged by their steps.
    """

    format = "TensorBoard events"
    unit = "record"

    def __init__(self, path: Path, recogniser: Recogniser, files: Sequence[EventFile]) -> None:
        super().__init__(path, recogniser)
        self._files = list(files)

    def records(self) -> Iterator[tuple[int, Record]]:
        """One record for each event with a scalar that may be a metric."""
        self._tags: dict[str, None] = {}
        prefixes = list(dict.fromkeys(file.prefix for file in self._files))
        if len(prefixes) == 1:
            return self._of_prefix(prefixes[0])
        return heapq.merge(*map(self._of_prefix, prefixes), key=lambda item: item[1]["step"])

    def _of_prefix(self, prefix: str) -> Iterator[tuple[int, Record]]:
        files = [file for file in self._files if file.prefix == prefix]
        for i, file in enumerate(files):
            frames = Frames(file.path, self.troubles)
            try:
                for number, message in frames:
                    try:
                        time_s, step, scalars = scalars_of(message)
                    except ValueError as error:
                        self.troubles.note(number, f"{file.path.name}: {error}")
                        continue
                    if scalars and (record := self._record(prefix, scalars)):
                        record["step"] = float(step)
                        record["wall_time"] = time_s
                        yield number, record
                    self.share_read = (i + frames.share_read) / len(files)
            except InputError as error:
                if len(self._files) == 1:
                    raise
                self.troubles.note(0, str(error))

    def _record(self, prefix: str, scalars: list[tuple[str, float]]) -> Record:
        record: Record = {}
        for tag, value in scalars:
            column = prefix + tag if prefix else tag
            if self.recogniser.meaning(column) is not None:
                record[column] = value
            elif len(self._tags) < 100:
                self._tags[column[:80]] = None
        return record

    def contents(self) -> str:
        """The tags, in words."""
        if not self._tags:
            return "there is no scalar in it"
        return f"none of the tags ({', '.join(list(self._tags)[:12])}) is a metric that is known"


def looks_like_events(head: bytes) -> bool:
    """Whether a file begins as an event file does."""
    if b"brain.Event:" in head[:64]:
        return True
    return len(head) >= 12 and any(head[:8]) and lengths_that_fit(head, [(0, 0)]) == 1
