"""Writing event files of TensorBoard and run files of Weights & Biases, byte by byte."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lossguard.agent.logs.crc32c import masked

_BLOCK = 1 << 15


def varint(number: int) -> bytes:
    """As protobuf writes a uint64."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(number: int, data: bytes) -> bytes:
    """A field that holds bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def event(step: int, scalars: Mapping[str, float], time_s: float = 1.7e9) -> bytes:
    """An ``Event`` with simple values."""
    values = b"".join(
        message(1, message(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in scalars.items()
    )
    head = b"\x09" + struct.pack("<d", time_s) + (b"\x10" + varint(step) if step else b"")
    return head + message(5, values)


def tensor_event(step: int, tag: str, tensor: bytes) -> bytes:
    """An ``Event`` with a value that is a ``TensorProto``."""
    value = message(1, message(1, tag.encode()) + message(8, tensor))
    return b"\x10" + varint(step) + message(5, value)


def frame(content: bytes) -> bytes:
    """A TFRecord."""
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked(length)) + content + struct.pack("<I", masked(content))


VERSION = frame(b"\x09" + struct.pack("<d", 1.7e9) + message(3, b"brain.Event:2"))
"""What an event file begins with."""


def write_events(path: Path, rows: Iterable[tuple[int, Mapping[str, float]]]) -> Path:
    """An event file with these scalars."""
    with path.open("wb") as file:
        file.write(VERSION)
        for step, scalars in rows:
            file.write(frame(event(step, scalars)))
    return path


def history(row: Mapping[str, object]) -> bytes:
    """A history record of Weights & Biases; a slash in a key nests it."""
    items = b"".join(
        message(
            1,
            b"".join(message(2, part.encode()) for part in key.split("/"))
            + message(16, json.dumps(value).encode()),
        )
        for key, value in row.items()
    )
    return message(2, items)


def pieces(records: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a LevelDB log, with the header of Weights & Biases."""
    yield b":W&B\xe1\xbe\x00"
    used = 7
    for record in records:
        first = True
        while True:
            space = _BLOCK - used
            if space < 7:
                yield b"\0" * space
                used, space = 0, _BLOCK
            piece, record = record[: space - 7], record[space - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            body = bytes([kind]) + piece
            yield struct.pack("<IH", zlib.crc32(body), len(piece)) + body
            used = (used + 7 + len(piece)) % _BLOCK
            first = False
            if not record:
                break


def write_wandb(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """A run file of Weights & Biases with this history."""
    with path.open("wb") as file:
        file.writelines(pieces(map(history, rows)))
    return path
