"""A small picture of coloured cells as the bytes of a PNG file.

Source: https://www.w3.org/TR/png-3/ (indexed colour, no filter).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]


def png(cells: npt.NDArray[np.uint8], palette: Sequence[Colour], clear: int) -> bytes:
    """One pixel a cell, ``cells[row, column]`` being a place in the palette; ``clear`` is the one
    that is transparent."""
    height, width = cells.shape
    lines = np.zeros((height, width + 1), dtype=np.uint8)
    lines[:, 1:] = cells
    opaque = bytes(0 if i == clear else 255 for i in range(len(palette)))
    return b"".join((
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        _chunk(b"PLTE", b"".join(bytes(colour) for colour in palette)),
        _chunk(b"tRNS", opaque),
        _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
        _chunk(b"IEND", b""),
    ))  # fmt: skip


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
