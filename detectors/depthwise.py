"""What detectors of a gradient that changes along the depth have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossguard.detectors.base import Family, Finding, Observation
from lossguard.detectors.depth import QUARTERS, Depth
from lossguard.detectors.lasting import Lasting
from lossguard.detectors.located import LocatedDetector
from lossguard.detectors.measured import measured
from lossguard.detectors.progress import LossProgress
from lossguard.detectors.rewinding import Inputs

_FIRST_STRIDE = 2
_LAST_STRIDE = 8
_STRIDE_GROWS = 64
"""Observations after which the stride between two looks at the layers grows by one."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A look at the layers: log10 of the gradient norm along the depth."""

    first: float
    """At the input, on the line through the medians of the first and the last quarter."""
    last: float
    """At the output, on the same line."""
    least_step: float
    """The smallest rise from a quarter to the next, towards the output."""
    most_step: float
    """The largest."""
    extreme: float
    """Norm of the layer of the first quarter that stands out [gradient units]."""


class DepthwiseDetector(LocatedDetector):
    """Looks at the profile of the gradient along the depth, and at its total norm.

    The layers are looked at in every second observation at first and in every eighth later on, for
    which the figures of a look are all that is kept; loss and total norm are taken in every time.
    Each quarter of the depth is one median, so that no single layer decides (see ``depth``); the
    ends are taken from the line through the first and the last of them.
    """

    inputs = ("grad_norm",)

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._lasting = Lasting(looks)
        self._progress = LossProgress()
        self._rows = 0
        self._depth = Depth()
        self._names: Sequence[str] = ()
        self._layer = 0

    @abstractmethod
    def extreme_of(self, lowest: int, highest: int) -> int:
        """Which layer of the first quarter is to blame."""

    @abstractmethod
    def is_bad(self, slope: Slope) -> bool:
        """Whether this look, were it to last, is trouble."""

    @abstractmethod
    def along_depth(self, step: int, slope: Slope) -> Finding | None:
        """Take in a look while the trouble lasts."""

    @abstractmethod
    def over_time(self, step: int, norm: float, loss: float | None) -> Finding | None:
        """Take in a total norm. Called every time there is one, before the layers."""

    @abstractmethod
    def all_well(self, step: int) -> Finding | None:
        """Take in an observation without trouble."""

    @property
    @abstractmethod
    def over_time_active(self) -> bool:
        """Whether the total norm is in trouble."""

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """Loss, total norm, whether there were layers, and the figures of a look at them."""
        norm = observation.get("grad_norm")
        if norm is not None and not (math.isfinite(norm) and norm >= 0.0):
            norm = None
        family = measured(observation, "grad_norm")
        if norm is None and family is None:
            return None
        loss = observation.get("loss")
        if loss is not None and not math.isfinite(loss):
            loss = None
        if family is None:
            return loss, norm, None
        stride = min(_LAST_STRIDE, _FIRST_STRIDE + self._rows // _STRIDE_GROWS)
        if self._rows % stride:
            return loss, norm, 1.0
        return (loss, norm, 1.0, *self._look(family))

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one step."""
        loss, norm, row, *look = inputs
        self._progress.push(loss)
        said = None if norm is None else self.over_time(step, norm, loss)
        if row is not None:
            self._rows += 1
            self._lasting.pass_by(step)
        if look:
            first, last, least, most, extreme = (0.0 if x is None else x for x in look)
            slope = Slope(first, last, least, most, extreme)
            self._lasting.push(step, self.is_bad(slope))
            if said is None and self._lasting.active:
                said = self.along_depth(step, slope)
        if said is not None or self._lasting.active or self.over_time_active:
            return said
        return self.all_well(step)

    def blamed(self) -> str:
        """The layer to blame at the latest look."""
        return self._names[self._layer] if self._layer < len(self._names) else ""

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "lasting": self._lasting.state(),
            "progress": self._progress.state(),
            "rows": self._rows,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._lasting.restore(saved["lasting"])
        self._progress.restore(saved["progress"])
        self._rows = saved["rows"]

    def drop_episode(self) -> None:
        """Forget the open episode, silently."""
        super().drop_episode()
        self._lasting.clear()

    def _look(self, family: Family) -> Sequence[float]:
        profile = self._depth.profile(family)
        if profile is None:
            return ()
        q1, q2, q3, q4 = profile.quarters
        steps = (q2 - q1, q3 - q2, q4 - q3)
        beyond = (q4 - q1) / (2.0 * (QUARTERS - 1))
        self._names = family.names
        self._layer = self.extreme_of(profile.lowest, profile.highest)
        return q1 - beyond, q4 + beyond, min(steps), max(steps), float(family.values[self._layer])
