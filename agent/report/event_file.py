"""The steps of a run as a TensorBoard event file: one event a step, with all its scalars.

The reader of the same format is ``agent.logs.tfevents``; sources of the field numbers stand there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import IO

from lossguard.agent.logs.crc32c import masked, masked_all
from lossguard.agent.report.exporting import Series

_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
_TIME, _VALUE = struct.Struct("<d"), struct.Struct("<f")
_LONGEST_TOGETHER = 4096
"""Bytes of messages up to which checksums are taken many at a time."""
_LARGEST_FLOAT32 = 3.4028235677973366e38


def write_events(series: Series, file: IO[bytes]) -> None:
    """Values are float32, as TensorBoard has them. Wall times are those of the run."""
    file.write(_framed([_time_field(series.hello.started_s) + _bytes_field(3, b"brain.Event:2")]))
    begin_s: float | None = None
    for chunk in series.read():
        events = []
        for row in chunk:
            begin_s = row.time_s if begin_s is None else begin_s
            wall_s = series.hello.started_s + row.time_s - begin_s
            events.append(_event(wall_s, row.step, row.metrics))
        file.write(_framed(events))


def _event(wall_s: float, step: int, metrics: Mapping[str, float]) -> bytes:
    summary = b"".join(_scalar(name, value) for name, value in metrics.items())
    return _time_field(wall_s) + b"\x10" + _varint(step) + _bytes_field(5, summary)


def _time_field(wall_s: float) -> bytes:
    return b"\x09" + _TIME.pack(wall_s)


def _scalar(name: str, value: float) -> bytes:
    if abs(value) > _LARGEST_FLOAT32:  # NaN compares with nothing
        value = float("inf") if value > 0 else float("-inf")
    head, size = _tag(name)
    return b"\x0a" + _varint(size) + head + _VALUE.pack(value)


@lru_cache(maxsize=4096)
def _tag(name: str) -> tuple[bytes, int]:
    """The beginning of a scalar with this tag, and the length of the whole."""
    head = _bytes_field(1, name.encode("utf-8", errors="replace")) + b"\x15"
    return head, len(head) + _VALUE.size


def _bytes_field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


@lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _framed(messages: Sequence[bytes]) -> bytes:
    """Each message with its length before it, and the checksums of both."""
    lengths = [_LENGTH.pack(len(message)) for message in messages]
    parts: list[bytes] = []
    sums = zip(lengths, _sums(lengths), messages, _sums(messages), strict=True)
    for length, of_length, message, of_message in sums:
        parts += (length, _CHECKSUM.pack(of_length), message, _CHECKSUM.pack(of_message))
    return b"".join(parts)


def _sums(messages: Sequence[bytes]) -> Iterator[int]:
    by_length: dict[int, list[int]] = {}
    for i, message in enumerate(messages):
        by_length.setdefault(len(message), []).append(i)
    found = [0] * len(messages)
    for length, group in by_length.items():
        if 0 < length <= _LONGEST_TOGETHER:
            for i, checksum in zip(group, masked_all([messages[i] for i in group]), strict=True):
                found[i] = int(checksum)
        else:
            for i in group:
                found[i] = masked(messages[i])
    return iter(found)
