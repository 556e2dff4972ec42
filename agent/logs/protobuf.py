"""The wire format of Protocol Buffers, as far as reading takes it.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, bytes]
"""(number, wire type, value of a varint as it is written, raw bytes of all else)"""


def fields(message: bytes) -> list[Field]:
    """The fields of a message. Raises ValueError where it is malformed."""
    found: list[Field] = []
    at, end = 0, len(message)
    while at < end:
        key = message[at]
        at += 1
        if key >= 0x80:
            key, at = varint(message, at - 1)
        wire = key & 7
        if wire == VARINT:
            number, at = varint(message, at)
            found.append((key >> 3, wire, number, b""))
            continue
        if wire == BYTES:
            if at < end and message[at] < 0x80:
                size = message[at]
                at += 1
            else:
                size, at = varint(message, at)
        elif wire == FIXED64:
            size = 8
        elif wire == FIXED32:
            size = 4
        else:
            raise ValueError(f"wire type {wire} in a message")
        if at + size > end:
            raise ValueError("a field is cut off")
        found.append((key >> 3, wire, 0, message[at : at + size]))
        at += size
    return found


def varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins there and where it ends. Raises ValueError when it is cut off."""
    result = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number is cut off")
        byte = message[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def signed(number: int) -> int:
    """An int64 that was written as a varint."""
    return number - (1 << 64) if number >= 1 << 63 else number


def zigzag(number: int) -> int:
    """A sint64 that was written as a varint."""
    return (number >> 1) ^ -(number & 1)
