"""Many floats as text: plain data, and half as long as a list of numbers."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def packed(values: Floats) -> str:
    """Base64 of the little-endian float32 values."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def unpacked(text: str) -> Floats:
    """The values, bit for bit."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
