"""A weight whose norm jumps between two samples, after it had stood still."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from lossguard.detectors.packed import packed, unpacked

Floats = npt.NDArray[np.float32]

_BEFORE = 4
_AFTER = 2
_STILL = 1.5
"""Most that the largest of the samples before may be over the smallest; the jump must exceed
the factor by as much."""


class WeightJump:
    """The lower of the last two samples of a layer over the largest of the four before them."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._samples: deque[tuple[int, Floats]] = deque(maxlen=_BEFORE + _AFTER)

    def push(self, step: int, norms: Floats) -> tuple[int, float, float, int] | None:
        """Take in a sample (NaN where there is none): layer, norm before, norm after, last step
        before. None where nothing jumped."""
        if self._samples and len(self._samples[0][1]) != len(norms):
            self._samples.clear()
        self._samples.append((step, norms))
        if len(self._samples) < _BEFORE + _AFTER:
            return None
        rows = np.stack([sample for _, sample in self._samples])
        before, after = rows[:_BEFORE], rows[_BEFORE:].min(axis=0)
        high = before.max(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = high / before.min(axis=0)
            jumped = (after / self._factor >= high * moved) & (moved <= _STILL)
        if not jumped.any():
            return None
        index = int(jumped.argmax())
        return index, float(high[index]), float(after[index]), self._samples[_BEFORE - 1][0]

    def clear(self) -> None:
        """Forget all samples: the weights were put back to what they had been."""
        self._samples.clear()

    def state(self) -> list[Any]:
        """Plain data for ``restore``."""
        return [[step, packed(norms)] for step, norms in self._samples]

    def restore(self, state: list[Any]) -> None:
        """Take the place of the one that ``state`` came from."""
        self._samples = deque(
            ((step, unpacked(norms)) for step, norms in state), maxlen=_BEFORE + _AFTER
        )
