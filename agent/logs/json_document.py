"""One JSON document: an array of records, alone or inside an object, of any size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lossguard.agent.logs.json_values import parsed, record_of
from lossguard.agent.logs.source import Record, Source
from lossguard.agent.logs.stream import Stream

_LONGEST_RECORD = 1 << 24
_OVERLAP = 64
_WHOLE = 1 << 26
"""Characters up to which a document without an array of records is read in one piece."""
_ARRAY = re.compile(
    r'"(log_history|history|_history|records|rows|logs|log|metrics|data)"\s*:\s*\[(?=\s*[\]{])'
)
_BETWEEN = re.compile(r"[\s,]*")


class JsonDocument(Source):
    """``trainer_state.json`` of Hugging Face, or an array of records, or an object of arrays.

    The array is read object by object, so that the size of the document does not matter, nor
    does it that its end is missing.
    """

    format = "JSON document"
    unit = "record"

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every object in the array."""
        self._keys: list[str] = []
        with Stream(self.path) as stream:
            chunks = _Chunks(stream)
            found = self._find_array(chunks)
            if found:
                yield from self._array(chunks)
            else:
                yield from self._object_of_arrays(chunks)
            if stream.damage:
                self.troubles.note(0, stream.damage)

    def _find_array(self, chunks: _Chunks) -> bool:
        """Go to behind the bracket that the array of records begins with."""
        text = chunks.text = chunks.text.lstrip()
        if not text and chunks.more():
            text = chunks.text = chunks.text.lstrip()
        if text.startswith("["):
            chunks.at = 1
            return True
        seen = 0
        while True:
            match = _ARRAY.search(chunks.text, max(0, seen - _OVERLAP))
            if match is not None:
                if match[1] == "log_history":
                    self.format = "Hugging Face trainer state"
                chunks.at = match.end()
                return True
            seen = len(chunks.text)
            if seen > _WHOLE or not chunks.more():
                return False

    def _array(self, chunks: _Chunks) -> Iterator[tuple[int, Record]]:
        number = 0
        while True:
            number += 1
            try:
                value, ended = chunks.next_value()
            except ValueError as error:
                self.troubles.note(number, str(error)[:200])
                if not chunks.to_next_object():
                    return
                continue
            if ended:
                return
            if not isinstance(value, dict):
                self.troubles.note(number, "not a JSON object")
                continue
            try:
                record = record_of(value, self.recogniser)
            except ValueError as error:
                self.troubles.note(number, str(error))
                continue
            if number % 1024 == 0:
                self.share_read = chunks.share_read
            if record:
                yield number, record
            elif len(self._keys) < 100:
                self._keys += [str(key)[:40] for key in value if key not in self._keys][:12]

    def _object_of_arrays(self, chunks: _Chunks) -> Iterator[tuple[int, Record]]:
        """``{"loss": [...], "val_loss": [...]}``, as a history of Keras is saved."""
        try:
            value = parsed(chunks.text)
        except ValueError as error:
            self.troubles.note(1, f"no array of records in it, and as a whole: {error}"[:200])
            return
        if not isinstance(value, dict):
            return
        self._keys = [str(key)[:40] for key in value][:100]
        arrays = {
            key: column
            for key, column in value.items()
            if isinstance(column, list) and self.recogniser.meaning(key) is not None
        }
        for i in range(max(map(len, arrays.values()), default=0)):
            row = {key: column[i] for key, column in arrays.items() if i < len(column)}
            try:
                record = record_of(row, self.recogniser)
            except ValueError as error:
                self.troubles.note(i + 1, str(error))
                continue
            yield i + 1, record

    def contents(self) -> str:
        """The keys, in words."""
        keys = ", ".join(self._keys[:12])
        return f"none of the keys ({keys}) is a metric that is known"


class _Chunks:
    """A document in a buffer that moves along it."""

    def __init__(self, stream: Stream) -> None:
        self.text = ""
        self.at = 0
        self._stream = stream
        self._pieces = stream.text()
        self._decode = json.JSONDecoder().raw_decode

    @property
    def share_read(self) -> float:
        """Of the file's bytes."""
        return self._stream.position / max(self._stream.size, 1)

    def more(self) -> bool:
        """Take in another chunk; False at the end of the file."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self.text = self.text[self.at :] + piece
        self.at = 0
        return True

    def next_value(self) -> tuple[Any, bool]:
        """The next element of the array; (None, True) at its end. Raises ValueError."""
        while True:
            self.at = _BETWEEN.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                break
            if not self.more():
                raise ValueError("the document is cut off")
        if self.text[self.at] == "]":
            return None, True
        while True:
            try:
                value, self.at = self._decode(self.text, self.at)
            except RecursionError:
                raise ValueError("nested too deep") from None
            except json.JSONDecodeError as error:
                # Complete up to here, and wrong: more text does not help.
                if error.pos < len(self.text) - 16 and not error.msg.startswith("Unterminated"):
                    raise ValueError(error.msg) from None
                if not self._grow():
                    raise ValueError("the document is cut off") from None
            else:
                return value, False

    def _grow(self) -> bool:
        """Take in about as much again as there is; False where there is no more to have."""
        begun = len(self.text) - self.at
        while begun <= _LONGEST_RECORD and self.more():
            if len(self.text) - self.at >= 2 * begun:
                return True
        return len(self.text) - self.at > begun

    def to_next_object(self) -> bool:
        """Go on behind what is broken."""
        while True:
            begin = self.text.find("{", self.at + 1)
            if begin >= 0:
                self.at = begin
                return True
            self.at = len(self.text)
            if not self.more():
                return False
            self.at = -1
