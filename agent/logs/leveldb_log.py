"""The log format of LevelDB: records cut into the pieces that fill blocks of 32 KiB.

Source: https://github.com/google/leveldb/blob/main/doc/log_format.md; Weights & Biases writes it
with a header of seven bytes and zlib's CRC-32 over the type and the data of each piece.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from lossguard.agent.logs.source import Troubles
from lossguard.agent.logs.stream import Stream

MAGIC = b":W&B\xe1\xbe"
_FILE_HEADER = 7
_BLOCK = 1 << 15
_PIECE = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_LONGEST = 1 << 26


def messages(stream: Stream, troubles: Troubles) -> Iterator[tuple[int, bytes]]:
    """Every record with its number (from 1); what is damaged is counted and left out.

    After damage, reading goes on with the next block.
    """
    number, parts, size = 0, list[bytes](), 0
    block = stream.read(_BLOCK)[_FILE_HEADER:]
    while block:
        for kind, data in _pieces(block):
            if kind == 0:
                troubles.note(number + 1, data.decode())
                parts, size = [], 0
                continue
            if kind in (_FULL, _FIRST):
                if parts:
                    troubles.note(number + 1, "the end of a record is missing")
                parts, size = [], 0
            elif not parts:
                continue  # the beginning was lost, and counted
            size += len(data)
            if size <= _LONGEST:
                parts.append(data)
            if kind in (_FULL, _LAST):
                number += 1
                if size <= _LONGEST:
                    yield number, b"".join(parts)
                parts, size = [], 0
        block = stream.read(_BLOCK)
    if parts or stream.damage:
        troubles.note(number + 1, stream.damage or "the file is cut off")


def _pieces(block: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, data) of each piece; type 0 where it is damaged, with the reason."""
    at = 0
    while at + _PIECE.size <= len(block):
        checksum, length, kind = _PIECE.unpack_from(block, at)
        if kind == 0 and length == 0:
            return  # the rest of the block was never written
        data = block[at + _PIECE.size : at + _PIECE.size + length]
        if len(data) < length:
            yield 0, b"the file is cut off"
            return
        if kind > _LAST or zlib.crc32(block[at + 6 : at + _PIECE.size + length]) != checksum:
            yield 0, b"the checksum is wrong"
            return
        yield kind, data
        at += _PIECE.size + length
