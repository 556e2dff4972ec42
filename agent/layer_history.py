"""The layers of a whole run in constant memory, in which no one-step spike is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lossguard.detectors import Family, Observation

KEPT = ("grad_norm", "act_rms", "update_ratio", "zero_share")
"""Families that are kept."""
_COLUMNS, _ROWS = 128, 128

Floats = npt.NDArray[np.float32]

log = logging.getLogger(__name__)


class LayerMap:
    """One family: a column a stretch of steps, a row a layer, in it the largest value there.

    When all columns are full, neighbours are merged and their width in steps doubles. Of more than
    128 layers neighbours share a row. At most 64 KB, about 10 microseconds a step.
    """

    def __init__(self, layers: Sequence[str], columns: int = _COLUMNS, rows: int = _ROWS) -> None:
        self.layers = list(layers)
        self._same: object = None
        self._first = np.unique(
            np.linspace(0, len(layers), min(rows, len(layers)), False).astype(int)
        )
        self._width = 1
        self._used = 0
        self._steps = np.zeros(columns, dtype=np.int64)
        self._values = np.zeros((columns, len(self._first)), dtype=np.float32)

    @property
    def names(self) -> list[str]:
        """Of each row its layer, or the first of its layers and how many more there are."""
        sizes = np.diff(self._first, append=len(self.layers)).tolist()
        return [
            self.layers[first] + (f" +{size - 1}" if size > 1 else "")
            for first, size in zip(self._first.tolist(), sizes, strict=True)
        ]

    @property
    def width(self) -> int:
        """Of a column [steps]."""
        return self._width

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The first step of each column."""
        return self._steps[: self._used]

    @property
    def values(self) -> Floats:
        """(columns, rows); NaN where nothing was measured, Inf where something was not finite."""
        return self._values[: self._used]

    def is_of(self, layers: Sequence[str]) -> bool:
        """Whether it is of these. Costs next to nothing where they are the very same list."""
        if self._same is not layers and self.layers == list(layers):
            self._same = layers
        return self._same is layers

    def add(self, step: int, family: Family) -> None:
        """Take in one step. A step below the last column's counts into that column."""
        finite = np.where(np.isfinite(family.values), family.values, np.float32(np.inf))
        cells = np.where(family.missing, np.float32(np.nan), finite)
        row = np.fmax.reduceat(cells, self._first)
        start = step - step % self._width
        if self._used and start <= self._steps[self._used - 1]:
            last = self._values[self._used - 1]
            np.fmax(last, row, out=last)
            return
        if self._used == len(self._steps):
            self._halve()
            self.add(step, family)
            return
        self._steps[self._used] = start
        self._values[self._used] = row
        self._used += 1

    def _halve(self) -> None:
        while self._used > len(self._steps) // 2:
            self._width *= 2
            starts = self.steps - self.steps % self._width
            first = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
            merged = len(first)
            self._values[:merged] = np.fmax.reduceat(self.values, first, axis=0)
            self._steps[:merged] = starts[first]
            self._used = merged

    def state(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "layers": self.layers,
            "width": self._width,
            "steps": self.steps.tobytes(),
            "values": self.values.tobytes(),
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> LayerMap:
        """What ``state`` came from. Raises ValueError, KeyError or TypeError where it is none."""
        found = cls(state["layers"])
        steps = np.frombuffer(state["steps"], dtype=np.int64)
        values = np.frombuffer(state["values"], dtype=np.float32)
        found._used, found._width = len(steps), int(state["width"])
        found._steps[: len(steps)] = steps
        found._values[: len(steps)] = values.reshape(len(steps), -1)
        return found


class LayerHistory:
    """The kept families of one run."""

    def __init__(self) -> None:
        self.maps: dict[str, LayerMap] = {}

    def note(self, observation: Observation) -> None:
        """Take in one step. A family whose layers are others than before begins anew."""
        for kind in KEPT:
            family = observation.families.get(kind)
            if family is None or not len(family.names):
                continue
            known = self.maps.get(kind)
            if known is None or not known.is_of(family.names):
                known = self.maps[kind] = LayerMap(family.names)
            known.add(observation.step, family)

    def state(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {kind: known.state() for kind, known in self.maps.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the place of what ``state`` came from; what makes no sense is left out."""
        for kind, known in state.items():
            try:
                self.maps[kind] = LayerMap.restored(known)
            except (ValueError, KeyError, TypeError) as error:
                log.warning(
                    "the kept layers of %r make no sense (%s); they begin anew", kind, error
                )
