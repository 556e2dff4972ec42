"""Records out of JSON objects, however deep the numbers are nested."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from lossguard.agent.logs.names import EPOCH, TIME, Recogniser
from lossguard.agent.logs.source import Record, number_of

_DEEPEST = 8
_SOFT = (EPOCH, TIME)


def parsed(text: str) -> Any:
    """The value of a JSON text, NaN and Infinity allowed. Raises ValueError where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def record_of(
    members: Mapping[str, Any], recogniser: Recogniser, prefix: str = "", depth: int = 0
) -> Record:
    """The columns of an object that may hold a metric; nested keys are joined by a slash.

    Raises ValueError where such a column holds something that is no number.
    """
    record: Record = {}
    for key, value in members.items():
        column = prefix + key
        if isinstance(value, dict):
            if depth < _DEEPEST:
                record.update(record_of(value, recogniser, f"{column}/", depth + 1))
            continue
        if (meaning := recogniser.meaning(column)) is None:
            continue
        if isinstance(value, list) and meaning.metric == "lr" and value:
            value = value[0]  # one for each parameter group
        try:
            number = _number(value)
        except (ValueError, OverflowError):
            if meaning.metric in _SOFT:
                continue
            raise ValueError(f"{column} is {str(value)[:40]!r}, no number") from None
        if number is not None:
            record[column] = number
    return record


def _number(value: object) -> float | None:
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, str):
        return number_of(value)
    if value is None:
        return None
    raise ValueError
