"""Plain text logs: what a training script printed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from lossguard.agent.logs.names import EPOCH, STEP, TIME, Recogniser
from lossguard.agent.logs.source import Record, Source, number_of
from lossguard.agent.logs.stream import Stream
from lossguard.agent.logs.text_line import LineReader
from lossguard.errors import UsageError

_NOT_TRAINING = re.compile(r"\b(?:sanity|validat\w+|predicting|testing|evaluat\w+)\b", re.I)
_LONGEST = 1 << 16


class TextLog(Source):
    """Lines that name their numbers, whatever else they say.

    Steps are those that the lines state. Where they state none, the count of a progress bar
    ("450/1000") is taken, and counted on where the bar begins anew.
    """

    format = "text log"

    def __init__(self, path: Path, recogniser: Recogniser) -> None:
        super().__init__(path, recogniser)
        self._num_lines = 0
        self._first_line = ""

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every line with a metric in it."""
        reader, steps = LineReader(self.recogniser), _Steps()
        with Stream(self.path) as stream:
            number = 0
            for number, line in enumerate(stream.lines(), start=1):
                if number % 4096 == 0:
                    self.share_read = stream.position / max(stream.size, 1)
                said = reader.read(line)
                record = said.record
                if said.progress is not None and not _NOT_TRAINING.search(line):
                    steps.see_bar(*said.progress, record)
                if STEP in record:
                    steps.stated = record[STEP]
                if any(column not in (STEP, EPOCH, TIME) for column in record):
                    steps.give_to(record)
                    yield number, record
                elif not self._first_line:
                    self._first_line = line.strip()[:80]
            self._num_lines = number
            if stream.damage:
                self.troubles.note(number, stream.damage)

    def suffices(self, metrics: Collection[str]) -> bool:
        """A learning rate alone is said in many a text that is no log."""
        return any(metric not in ("lr", "max_norm", "input_length") for metric in metrics)

    def contents(self) -> str:
        """The first line, in words."""
        return f"in {self._num_lines} lines nothing like a loss was found ({self._first_line!r})"

    def advice(self) -> str:
        """How to have it read."""
        return (
            "say what the lines look like with --pattern, for instance "
            "--pattern 'step (?P<step>\\d+) .*loss (?P<loss>\\S+)'"
        )


class _Steps:
    """The step that a line belongs to, where it does not say so itself."""

    def __init__(self) -> None:
        self.stated: float | None = None
        self._total = 0
        self._done = 0
        self._base = 0
        self._now: int | None = None
        self._epoch = float("-inf")

    def see_bar(self, done: int, total: int, record: Record) -> None:
        """A progress bar stands at so many; one that counts to another total than the first is
        another's, unless it comes with a loss."""
        if not record and self._total and total != self._total:
            return
        epoch = record.get(EPOCH, self._epoch)
        if epoch < self._epoch:
            self._base = 0
        elif self._now is not None and (done < self._done or total != self._total):
            self._base = self._now
        self._epoch, self._done, self._total = epoch, done, total
        self._now = self._base + done

    def give_to(self, record: Record) -> None:
        """Complete a record that has no step."""
        if STEP in record:
            return
        if self.stated is not None:
            record[STEP] = self.stated
        elif self._now is not None:
            record[STEP] = float(self._now)


class PatternLog(Source):
    """Lines that match a regular expression of the user's; its named groups are the columns."""

    format = "text log by pattern"

    def __init__(self, path: Path, recogniser: Recogniser, pattern: str) -> None:
        super().__init__(path, recogniser)
        self._pattern = compiled(pattern)
        self._num_lines = 0

    def header(self) -> list[str]:
        """The named groups."""
        return list(self._pattern.groupindex)

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every line that matches."""
        known = [name for name in self._pattern.groupindex if self.recogniser.meaning(name)]
        search = self._pattern.search
        with Stream(self.path) as stream:
            number = 0
            for number, line in enumerate(stream.lines(), start=1):
                if number % 4096 == 0:
                    self.share_read = stream.position / max(stream.size, 1)
                match = search(line[:_LONGEST])
                if match is None:
                    continue
                try:
                    record = {
                        name: value
                        for name in known
                        if match[name] is not None
                        and (value := number_of(match[name].rstrip(",;"))) is not None
                    }
                except ValueError as error:
                    self.troubles.note(number, str(error))
                    continue
                if record:
                    yield number, record
            self._num_lines = number
            if stream.damage:
                self.troubles.note(number, stream.damage)

    def contents(self) -> str:
        """The groups, in words."""
        groups = ", ".join(self._pattern.groupindex) or "none"
        return f"none of the pattern's named groups ({groups}) is a metric"


def compiled(pattern: str) -> re.Pattern[str]:
    """Raises UsageError for a pattern that is none, or has no named group."""
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"--pattern {pattern!r} is no regular expression: {error}") from None
    if not found.groupindex:
        raise UsageError(
            f"--pattern {pattern!r} has no named group; write (?P<step>...) and (?P<loss>...)"
        )
    return found
