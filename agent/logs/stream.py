"""The bytes and lines of a file, decompressed on the way, whatever state the file is in."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lossguard.errors import InputError

_CHUNK = 1 << 18
LONGEST_LINE = 1 << 24
"""Characters; what a longer line has beyond is thrown away."""
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
_ZSTD = b"\x28\xb5\x2f\xfd"


class _Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Stream:
    """A file for reading from front to back; gzip, xz and bzip2 are decompressed.

    Raises InputError when the file cannot be opened. Damage further in ends the stream like the
    end of the file would, and ``damage`` says what it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        try:
            self._raw = path.open("rb")
            self.size = path.stat().st_size
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({_reason(error)})") from error
        self._file: _Readable = self._raw
        try:
            magic = self._raw.read(6)
            self._raw.seek(0)
        except OSError as error:
            self._raw.close()
            raise InputError(f"{path}: cannot be read ({_reason(error)})") from error
        if magic.startswith(_ZSTD):
            self._raw.close()
            raise InputError(f"{path}: compressed with zstd; decompress it first: zstd -d {path}")
        for start, opener in _COMPRESSED.items():
            if magic.startswith(start):
                self._file = opener(self._raw, "rb")  # type: ignore[operator]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file itself that have been read, of ``size``."""
        try:
            return self._raw.tell()
        except (OSError, ValueError):
            return self.size

    def read(self, size: int = _CHUNK) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""
        if self.damage:
            return b""
        parts: list[bytes] = []
        while size > 0:
            try:
                # What could be decompressed before the damage is given out before it is met.
                part = self._file.read1(size)
            except EOFError:
                self.damage = "the compressed file is cut off"
                break
            except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
                self.damage = f"damaged from here on ({_reason(error)})"
                break
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> int:
        """Pass over ``size`` bytes; how many there were."""
        passed = 0
        while passed < size and (part := self.read(min(_CHUNK, size - passed))):
            passed += len(part)
        return passed

    def text(self) -> Iterator[str]:
        """The text in chunks; all three kinds of line ends become a newline."""
        first = self.read(_CHUNK)
        encoding, skipped = _encoding(first)
        plain = codecs.getincrementaldecoder(encoding)(errors="replace")
        decoder = io.IncrementalNewlineDecoder(plain, translate=True)
        chunk = first[skipped:]
        while chunk:
            yield decoder.decode(chunk)
            chunk = self.read(_CHUNK)
        yield decoder.decode(b"", final=True)

    def lines(self) -> Iterator[str]:
        """The lines without their ends; not the piece of one that damage leaves."""
        rest, cut = "", False
        for chunk in self.text():
            lines = (rest + chunk).split("\n")
            rest = lines.pop()
            if cut and lines:
                del lines[0]
                cut = False
            yield from lines
            if cut:
                rest = ""
            elif len(rest) > LONGEST_LINE:
                yield rest[:LONGEST_LINE]
                rest, cut = "", True
        if rest and not self.damage:
            yield rest


def head_of(path: Path, size: int) -> bytes:
    """The first bytes of a file, decompressed. Raises InputError when there are none to have."""
    with Stream(path) as stream:
        head = stream.read(size)
        if not head and stream.damage:
            raise InputError(f"{path}: {stream.damage}")
        return head


def decoded(head: bytes) -> str:
    """The beginning of a file as text."""
    encoding, skipped = _encoding(head)
    text = head[skipped:].decode(encoding, errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding(head: bytes) -> tuple[str, int]:
    """By its byte order mark, and how long that is; without one it is UTF-8."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if head.startswith(mark):
            return encoding, len(mark)
    return "utf-8", 0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
