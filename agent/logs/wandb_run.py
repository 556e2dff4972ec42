"""The file of a Weights & Biases run, as ``wandb`` leaves it in ``offline-run-.../run-*.wandb``.

Field numbers as in wandb's ``proto/wandb_internal.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from lossguard.agent.logs.json_values import parsed, record_of
from lossguard.agent.logs.leveldb_log import messages
from lossguard.agent.logs.protobuf import BYTES, FIXED64, VARINT, fields, signed, zigzag
from lossguard.agent.logs.source import Record, Source
from lossguard.agent.logs.stream import Stream

_HISTORY, _STATS = 2, 7
_ITEM, _HISTORY_STEP, _STATS_ITEM = 1, 2, 3
_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16
_BOOLEAN, _INTEGER, _NUMBER, _TEXT = 4, 5, 6, 7
_JSON_VALUE = b"\x82\x01"
"""How a field of this number and type begins."""
_DOUBLE = struct.Struct("<d")


class WandbRun(Source):
    """What the run logged (its history), and what was sampled from the system meanwhile."""

    format = "Weights & Biases run"
    unit = "record"
    keeps_order = False

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every history record, and every sample of the system that may be a metric."""
        self._seen: dict[str, None] = {}
        self._columns: dict[bytes, str | None] = {}
        with Stream(self.path) as stream:
            for number, message in messages(stream, self.troubles):
                try:
                    record = self._record(message)
                except ValueError as error:
                    self.troubles.note(number, str(error)[:200])
                    continue
                if record:
                    yield number, record
                if number % 256 == 0:
                    self.share_read = stream.position / max(stream.size, 1)

    def _record(self, message: bytes) -> Record:
        """What may be a metric in a history or system record; empty for all the others.

        Raises ValueError where the message is malformed.
        """
        record: Record = {}
        for number, wire, _, data in fields(message):
            if wire != BYTES or number not in (_HISTORY, _STATS):
                continue
            item_number = _ITEM if number == _HISTORY else _STATS_ITEM
            for of, kind, _, item in fields(data):
                if of == item_number and kind == BYTES:
                    self._take(item, record)
                elif of == _HISTORY_STEP and number == _HISTORY and kind == BYTES:
                    step = next((integer for one, _, integer, _ in fields(item) if one == 1), 0)
                    record.setdefault("_step", float(signed(step)))
        return record

    def _take(self, item: bytes, record: Record) -> None:
        # A key, and its value as JSON of less than 128 bytes: what nearly every item is.
        at = item.find(_JSON_VALUE)
        if at > 0 and len(item) > at + 2 and item[at + 2] == len(item) - at - 3 < 0x80:
            head = item[:at]
            column = self._columns.get(head, "")
            if column is None:
                return
            if column:
                try:
                    record[column] = float(item[at + 3 :])
                    return
                except ValueError:
                    pass
            elif head not in self._columns and len(self._columns) < 100_000:
                key, _ = _item(head)
                self._columns[head] = self._known(key)
        key, value = _item(item)
        if isinstance(value, dict) or self._known(key) is not None:
            record.update(record_of({key: value}, self.recogniser))

    def _known(self, key: str) -> str | None:
        """The key, if it may be a metric."""
        if key and self.recogniser.meaning(key) is not None:
            return key
        if len(self._seen) < 100 and not key.startswith("_"):
            self._seen[key[:40]] = None
        return None

    def contents(self) -> str:
        """The keys, in words."""
        if not self._seen:
            return "nothing was logged in it"
        return f"none of the keys ({', '.join(list(self._seen)[:12])}) is a metric that is known"


def _item(message: bytes) -> tuple[str, Any]:
    """Key and value. Raises ValueError where the message is malformed."""
    keys: list[str] = []
    value: Any = None
    for number, wire, integer, data in fields(message):
        if number in (_KEY, _NESTED_KEY) and wire == BYTES:
            keys.append(data.decode(errors="replace"))
        elif number == _VALUE_JSON and wire == BYTES:
            value = parsed(data.decode(errors="replace"))
        elif number == _NUMBER and wire == FIXED64:
            (value,) = _DOUBLE.unpack(data)
        elif number == _INTEGER and wire == VARINT:
            value = zigzag(integer)
        elif number == _BOOLEAN and wire == VARINT:
            value = bool(integer)
        elif number == _TEXT and wire == BYTES:
            value = data.decode(errors="replace")
    return "/".join(keys), value
