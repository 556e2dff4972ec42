"""TFRecord files: a row of messages, each with its length and checksums.

A frame is the length (uint64), a checksum of the length, the message, a checksum of the message.
Source: tensorflow ``core/lib/io/record_writer.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lossguard.agent.logs.crc32c import masked_all
from lossguard.agent.logs.source import Troubles
from lossguard.agent.logs.stream import Stream

LARGEST = 1 << 16
"""Bytes of a message that is handed out; larger ones are pictures and graphs, passed over."""
_CHUNK = 1 << 20
_LONGEST_CHECKED = 512
"""Bytes up to which messages are checked; longer ones are histograms rather than scalars."""
_LONGEST = 1 << 40
_LENGTH = struct.Struct("<Q")
_HEADER, _AROUND = 12, 16

Frame = tuple[int, int]
"""(position in the buffer, length of the message)"""


class Frames:
    """The messages of one file with their numbers (from 1).

    A message whose checksum is wrong is counted and left out. Where the framing itself is broken,
    reading goes on at the next place at which a length fits its checksum.
    """

    def __init__(self, path: Path, troubles: Troubles) -> None:
        self._path = path
        self._troubles = troubles
        self._number = 0
        self._lost = False
        self.share_read = 0.0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        with Stream(self._path) as stream:
            buffer = b""
            while chunk := stream.read(_CHUNK):
                buffer += chunk
                while buffer:
                    before = len(buffer)
                    if self._lost:
                        buffer = self._find_again(buffer)
                    was_lost = self._lost
                    frames, used, beyond = self._split(buffer)
                    yield from self._checked(buffer, frames)
                    if self._lost and not was_lost:
                        self._note("the framing is damaged")
                    if beyond:
                        self._pass_over(stream, beyond - len(buffer))
                        buffer = b""
                    buffer = buffer[used:]
                    if not self._lost or len(buffer) in (0, before):
                        break
                self.share_read = stream.position / max(stream.size, 1)
            if stream.damage or (buffer and not self._lost):
                self._note(stream.damage or "the file is cut off")

    def _note(self, why: str) -> None:
        self._troubles.note(self._number + 1, f"{self._path.name}: {why}")

    def _pass_over(self, stream: Stream, size: int) -> None:
        """A message too large to be a scalar."""
        self._number += 1
        if stream.skip(size) < size:
            self._note("the file is cut off")

    def _split(self, buffer: bytes) -> tuple[list[Frame], int, int]:
        """The whole frames, how much they take up, and the end of a large one behind them that
        reaches beyond the buffer (or 0). Sets ``_lost`` where a length is not confirmed."""
        if self._lost:
            return [], 0, 0
        frames: list[Frame] = []
        at, end = 0, len(buffer)
        while at + _HEADER <= end:
            (length,) = _LENGTH.unpack_from(buffer, at)
            frames.append((at, length))
            at += _AROUND + length
            if length > _LONGEST:
                break
        fitting = lengths_that_fit(buffer, frames)
        if fitting < len(frames):
            broken = frames[fitting][0]
            self._lost = True
            return frames[:fitting], broken + 1, 0
        if frames and at > end:
            begin, length = frames.pop()
            return frames, begin, at if length > LARGEST else 0
        return frames, at, 0

    def _find_again(self, buffer: bytes) -> bytes:
        """From the next frame on; the last few bytes where there is none yet."""
        begin = next_frame(buffer)
        self._lost = begin is None
        return buffer[1 - _HEADER :] if begin is None else buffer[begin:]

    def _checked(self, buffer: bytes, frames: Sequence[Frame]) -> Iterator[tuple[int, bytes]]:
        messages = [buffer[at + _HEADER : at + _HEADER + length] for at, length in frames]
        by_length: dict[int, list[int]] = {}
        for i, message in enumerate(messages):
            if 0 < len(message) <= _LONGEST_CHECKED:
                by_length.setdefault(len(message), []).append(i)
        wrong: set[int] = set()
        for length, group in by_length.items():
            sums = masked_all([messages[i] for i in group])
            written = [_uint32(buffer, frames[i][0] + _HEADER + length) for i in group]
            different = np.flatnonzero(sums != np.array(written, dtype=np.uint32))
            wrong.update(group[i] for i in different.tolist())
        for i, message in enumerate(messages):
            self._number += 1
            if i in wrong:
                self._troubles.note(self._number, f"{self._path.name}: the checksum is wrong")
            elif len(message) <= LARGEST:
                yield self._number, message


def lengths_that_fit(buffer: bytes, frames: Sequence[Frame]) -> int:
    """How many frames, from the first on, have a length that its checksum confirms."""
    if not frames:
        return 0
    sums = masked_all([buffer[at : at + 8] for at, _ in frames])
    written = np.array([_uint32(buffer, at + 8) for at, _ in frames], dtype=np.uint32)
    wrong = np.flatnonzero(sums != written)
    return int(wrong[0]) if len(wrong) else len(frames)


def next_frame(buffer: bytes) -> int | None:
    """The first place at which a length fits its checksum, or None.

    Looks for lengths below 2^24 only, whose upper five bytes are zero.
    """
    places = len(buffer) - _HEADER + 1
    if places <= 0:
        return None
    data = np.frombuffer(buffer, dtype=np.uint8)
    likely = (data[:places] | data[1 : places + 1] | data[2 : places + 2]) != 0
    for i in range(3, 8):
        likely &= data[i : places + i] == 0
    at = np.flatnonzero(likely)
    if not len(at):
        return None
    sums = masked_all([buffer[i : i + 8] for i in at.tolist()])
    written = np.array([_uint32(buffer, i + 8) for i in at.tolist()], dtype=np.uint32)
    fits = np.flatnonzero(sums == written)
    return int(at[fits[0]]) if len(fits) else None


def _uint32(buffer: bytes, at: int) -> int:
    return int.from_bytes(buffer[at : at + 4], "little")
